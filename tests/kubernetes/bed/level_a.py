"""Level A: a real control plane and the real operator over fake nodes, whose pods kwok advances. No root, seconds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.kubernetes.bed import components, tools
from tests.kubernetes.bed.api import Object, condition, wait_for
from tests.kubernetes.bed.control_plane import ControlPlane, Say

HOLD = "rayplane.test/hold"
"""Annotation of a pod that kwok leaves as it is."""

_STAGES = Path(__file__).parent / "stages.yaml"


class LevelA(ControlPlane):
    """A running bed of level A."""

    level = "a"

    def start(self, name: str) -> None:
        """Start a component that was stopped; returns once it is well."""
        super().start(name)
        if name == "etcd" and self.running("kube-apiserver"):
            self._wait("kube-apiserver")  # it must reconnect to the API server
        # After an error in a watch, kwok 0.8 may silently stop to follow pods. A kubelet would not.
        if name in ("etcd", "kube-apiserver") and self.running("kwok"):
            self.restart("kwok")

    def hold(self, name: str, namespace: str) -> None:
        """Freeze a pod's status: kwok leaves it alone from now on."""
        self.api.patch("v1", "Pod", name, {"metadata": {"annotations": {HOLD: "yes"}}}, namespace)

    def set_pod_status(self, name: str, namespace: str, status: Object) -> Object:
        """Give a pod a status, as its kubelet would, and leave it so: pending, failed, without its image."""
        self.hold(name, namespace)
        return self.api.patch_status("v1", "Pod", name, status, namespace)

    @contextmanager
    def pods_held(self) -> Iterator[None]:
        """Pods that are made in the block stay Pending until it ends."""
        with self.without("kwok"):
            yield

    def add_node(self, name: str, *, cpu: str = "1000", memory: str = "4Ti") -> None:
        """A fake node with room for 10,000 pods."""
        room = {"cpu": cpu, "memory": memory, "pods": "10000", "ephemeral-storage": "4Ti"}
        self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {"rayplane.test/node": "fake", "kubernetes.io/hostname": name}},
            }
        )
        self.api.patch_status("v1", "Node", name, {"capacity": room, "allocatable": room})

    def node_ready(self, name: str) -> bool:
        """True if a node is ready."""
        return condition(self.api.get("v1", "Node", name), "Ready") == "True"


@contextmanager
def level_a(*, nodes: int = 2, audit: bool = False, say: Say = lambda line: None) -> Iterator[LevelA]:
    """A bed of level A for the time of the block. Raises Unavailable if a program is missing or does not start.

    ``audit`` keeps the metadata of every request in ``audit_log``, for counting who asks how much.
    """
    began = time.monotonic()
    paths = tools.find(tools.LEVEL_A)
    bed = LevelA(Path(tempfile.mkdtemp(prefix="rp-bed-")), paths, address="127.0.0.1", say=say)
    try:
        bed.make_keys()
        bed.start_api(real_nodes=False, audit=audit)
        bed.start_controllers(real_nodes=False)
        bed.add(components.kwok(paths["kwok"], bed.kubeconfig, _STAGES, bed.ports))
        bed.start("kwok")
        names = [f"fake-{number}" for number in range(nodes)]
        for name in names:
            bed.add_node(name)
        bed.install_kuberay()
        bed.start_operator()
        bed.wait("kube-controller-manager", "kube-scheduler", "ray-operator")
        for name in names:
            wait_for(f"node {name} ready", partial(bed.node_ready, name), seconds=120.0)
        say(f"level A is up after {time.monotonic() - began:.1f} s: {bed.server}")
        yield bed
    finally:
        bed.close()
