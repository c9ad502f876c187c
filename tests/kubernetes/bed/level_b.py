"""Level B: a real control plane, the real operator, and one real node on a machine of its own that runs real pods.

The control plane and the operator are processes of the host; the host reaches pods and Services by their addresses, and
pods reach the host at ``host_address``. It needs root.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rayplane.errors import Unavailable
from tests.kubernetes.bed import image, machine, node, tools
from tests.kubernetes.bed.api import Object, condition, wait_for
from tests.kubernetes.bed.components import SERVICES
from tests.kubernetes.bed.control_plane import ControlPlane, Say
from tests.kubernetes.bed.image import Image
from tests.kubernetes.bed.machine import Machine

STORAGE_CLASS = "rayplane-test-shared"
"""Storage class of the folders of the host that pods are offered."""

_CACHE = "kubernetes/image"


class LevelB(ControlPlane):
    """A running bed of level B. ``image`` is the reference of the image that its pods run."""

    level = "b"
    host_address = machine.HOST_ADDRESS
    dns_address = machine.ADDRESS

    def __init__(self, folder: Path, found: dict[str, Path], *, say: Say) -> None:
        super().__init__(folder, found, address=machine.HOST_ADDRESS, say=say)
        self.image = ""
        self.image_digest = ""
        self.machine = Machine(folder / "machine", first_process=found["pause"], routes=[node.PODS, SERVICES])

    def start_machine(self) -> None:
        """The machine, with nothing on it."""
        self.machine.start(mark=self.mark, log=self.log("machine"), records=self.records)

    def start_node(self) -> None:
        """containerd, kubelet, kube-proxy and the DNS, on the machine; returns once the node takes pods."""
        authority = self.authority
        enter, settings = self.machine.enter, self.folder / "node"
        settings.mkdir()
        authority.issue("kubelet", user=node.NAME, hosts=[node.NAME, machine.ADDRESS])
        as_node = self.kubeconfig_of_user(
            authority, self.keys / "node.kubeconfig", f"system:node:{node.NAME}", "system:nodes"
        )
        as_proxy = self.kubeconfig_of_user(authority, self.keys / "proxy.kubeconfig", "system:kube-proxy")
        self.add(node.containerd(self.tools, settings, enter))
        self.add(node.kubelet(self.tools, settings, self.keys, as_node, enter))
        self.add(node.proxy(self.tools, settings, as_proxy, enter))
        self.add(node.dns(self.tools, settings, self.kubeconfig, enter))
        self.start("containerd")
        for name in ("kubelet", "kube-proxy", "coredns"):
            self.launch(name)
        self.wait("kubelet", "kube-proxy", "coredns")

    def import_image(self, made: Image) -> None:
        """Give an image to the node, as a pull would."""
        argv = [str(self.tools["ctr"]), f"--address={self.machine.folder}/run/containerd/containerd.sock"]
        argv += ["--namespace=k8s.io", "images", "import", "-"]
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=said, stderr=said) as ctr,
        ):
            assert ctr.stdin is not None
            try:
                made.write(ctr.stdin)
                ctr.stdin.close()
            except BrokenPipeError:
                pass  # What it says tells more.
            if ctr.wait() != 0:
                said.seek(0)
                raise Unavailable(f"The node does not take the image {made.reference}: {said.read().decode()[-2000:]}")

    def shared_volume(self, folder: Path, claim: str, namespace: str) -> Object:
        """Offer a folder of the host to a namespace, as a claim on a volume that many pods may write. Returns it.

        Pods see the host's owners and modes: those of user 1000 must be able to write there.
        """
        volume = f"{namespace}-{claim}"
        room = {"storage": "100Gi"}
        common = {"accessModes": ["ReadWriteMany"], "storageClassName": STORAGE_CLASS}
        self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": volume},
                "spec": common
                | {
                    "capacity": room,
                    "hostPath": {"path": str(folder), "type": "Directory"},
                    "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": namespace, "name": claim},
                },
            }
        )
        return self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim, "namespace": namespace},
                "spec": common | {"resources": {"requests": room}, "volumeName": volume},
            }
        )

    def node_ready(self) -> bool:
        """Whether the node takes pods."""
        return condition(self.api.get("v1", "Node", node.NAME), "Ready") == "True"

    def close(self) -> None:
        """Take the machine down with all that runs on it, then the rest. Raises Unavailable naming what does not go."""
        with ExitStack() as last:
            last.callback(super().close)
            self.machine.stop(records=self.records)

    def left_over(self) -> list[str]:
        """What is left of it, for a person to read: nothing, once it is closed."""
        return super().left_over() + machine.left_over()


@contextmanager
def level_b(*, audit: bool = False, say: Say = lambda line: None) -> Iterator[LevelB]:
    """A bed of level B for the time of the block. Raises Unavailable if a part is missing or does not start."""
    machine.require_host()
    found = tools.find(tools.LEVEL_B)
    made = image.ray_image(cache_folder(), debootstrap=found["debootstrap"], say=say)
    say(f"image {made.reference} {made.digest}")
    bed = LevelB(Path(tempfile.mkdtemp(prefix="rp-bed-")), found, say=say)
    with machine.one_at_a_time(bed.mark, bed.folder, say):
        began = time.monotonic()
        try:
            _bring_up(bed, made, audit=audit)
            say(f"level B is up after {time.monotonic() - began:.1f} s: {bed.server}")
            yield bed
        finally:
            bed.close()


def cache_folder() -> Path:
    """Where images are kept, beside the programs."""
    cache = os.environ.get("RAYPLANE_CACHE")
    base = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rayplane")
    return base / _CACHE


def _bring_up(bed: LevelB, made: Image, *, audit: bool) -> None:
    bed.make_keys()
    bed.start_machine()
    bed.start_api(real_nodes=True, audit=audit)
    bed.start_controllers(real_nodes=True)
    bed.start_node()
    bed.install_kuberay()
    bed.start_operator(prefix=node.with_its_dns(bed.folder))
    bed.api.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": STORAGE_CLASS},
            "provisioner": "kubernetes.io/no-provisioner",
        }
    )
    bed.import_image(image.pause_image(cache_folder(), bed.tools["pause"]))
    began = time.monotonic()
    bed.import_image(made)
    bed.image, bed.image_digest = made.reference, made.digest
    bed.say(f"the node has the image after {time.monotonic() - began:.1f} s")
    bed.wait("kube-controller-manager", "kube-scheduler", "ray-operator")
    wait_for("the node ready", bed.node_ready, seconds=60.0)
