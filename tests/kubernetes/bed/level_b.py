"""Level B: a real control plane, the real operator, and one real node on a machine of its own that runs real pods.

The control plane and the operator are processes of the host; the host reaches pods and Services by their addresses, and
pods reach the host at ``host_address``. It needs root.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rayplane.errors import Unavailable
from tests.kubernetes.bed import image, machine, node, tools, unpacked
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

    def __init__(self, folder: Path, paths: dict[str, Path], *, say: Say) -> None:
        super().__init__(folder, paths, address=machine.HOST_ADDRESS, say=say)
        self.image = ""
        self.image_digest = ""
        self.image_id = ""
        self.machine = Machine(folder / "machine", first_process=paths["pause"], routes=[node.PODS, SERVICES])

    def start_machine(self) -> None:
        """The machine, with nothing on it."""
        self.machine.start(mark=self.mark, log=self.log("machine"), records=self.records)

    def start_containerd(self, base: Image, cache: Path) -> None:
        """The container runtime, with the image that all others stand on: kept from an earlier node, else unpacked."""
        settings = self.folder / "node"
        settings.mkdir()
        self.add(node.containerd(self.tools, settings, self.machine.enter))
        root, unpacked_root = (
            self.machine.folder / "var/lib/containerd",
            cache / "unpacked" / base.digest.partition(":")[2][:16],
        )
        taken = unpacked.give(unpacked_root, root)
        self.start("containerd")
        if not taken:
            self.say("unpacking the image's base, for this node and those to come")
            self.import_image(base)
            self.stop("containerd")
            unpacked.keep(root, unpacked_root)
            self.start("containerd")

    def start_node(self) -> None:
        """kubelet, kube-proxy and the DNS, on the machine; returns at once."""
        authority = self.authority
        enter, settings = self.machine.enter, self.folder / "node"
        authority.issue("kubelet", user=node.NAME, hosts=[node.NAME, machine.ADDRESS])
        as_node = self.kubeconfig_of_user(
            authority, self.keys / "node.kubeconfig", f"system:node:{node.NAME}", "system:nodes"
        )
        as_proxy = self.kubeconfig_of_user(authority, self.keys / "proxy.kubeconfig", "system:kube-proxy")
        self.add(node.kubelet(self.tools, settings, self.keys, as_node, enter))
        self.add(node.proxy(self.tools, settings, as_proxy, enter))
        self.add(node.dns(self.tools, settings, self.kubeconfig, enter))
        for name in ("kubelet", "kube-proxy", "coredns"):
            self.launch(name)

    def import_image(self, made: Image, *, without: Collection[str] = ()) -> None:
        """Give an image to the node, as a pull would; ``without`` the blobs that it has."""
        argv = [str(self.tools["ctr"]), f"--address={self.machine.folder}/run/containerd/containerd.sock"]
        argv += ["--namespace=k8s.io", "images", "import", "-"]
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=said, stderr=said) as ctr,
        ):
            assert ctr.stdin is not None
            try:
                made.write(ctr.stdin, without=without)
                ctr.stdin.close()
            except BrokenPipeError:
                pass  # the output of ctr says more
            if ctr.wait() != 0:
                said.seek(0)
                raise Unavailable(f"The node does not take the image {made.reference}: {said.read().decode()[-2000:]}")

    def shared_volume(self, folder: Path, claim: str, namespace: str) -> Object:
        """Offer a folder of the host to a namespace, as a claim on a volume that many pods may write. Returns it.

        Pods see the host's owners and modes: those of user 1000 must be able to write there.
        """
        volume = self.offer(folder, claim, namespace)
        asked = {key: volume["spec"][key] for key in ("accessModes", "storageClassName")}
        room = {"resources": {"requests": volume["spec"]["capacity"]}, "volumeName": volume["metadata"]["name"]}
        return self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim, "namespace": namespace},
                "spec": asked | room,
            }
        )

    def offer(self, folder: Path, claim: str, namespace: str, mode: str = "ReadWriteMany") -> Object:
        """A folder of the host as a volume for one claim only, which others make. Returns the volume."""
        return self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"{namespace}-{claim}"},
                "spec": {
                    "accessModes": [mode],
                    "storageClassName": STORAGE_CLASS,
                    "capacity": {"storage": "100Gi"},
                    "hostPath": {"path": str(folder), "type": "Directory"},
                    "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": namespace, "name": claim},
                },
            }
        )

    @property
    def resolving(self) -> list[str]:
        """Command prefix for a program of the host, so that it resolves names of pods and Services as a pod does."""
        return node.with_its_dns(self.folder)

    def node_ready(self) -> bool:
        """True if the node is ready."""
        return condition(self.api.get("v1", "Node", node.NAME), "Ready") == "True"

    def close(self) -> None:
        """Stop the machine with all of its processes, then the rest. Raises Unavailable naming what does not stop."""
        with ExitStack() as last:
            last.callback(super().close)
            self.machine.stop(records=self.records)

    def left_over(self) -> list[str]:
        """Readable list of what is left of it: empty once it is closed."""
        return super().left_over() + machine.left_over()


@contextmanager
def level_b(*, audit: bool = False, say: Say = lambda line: None) -> Iterator[LevelB]:
    """A bed of level B for the time of the block. Raises Unavailable if a part is missing or does not start."""
    machine.require_host()
    paths = tools.find(tools.LEVEL_B)
    cache = cache_folder()
    made, base = image.ray_image(cache, debootstrap=paths["debootstrap"], say=say)
    say(f"image {made.reference} {made.digest}")
    bed = LevelB(Path(tempfile.mkdtemp(prefix="rp-bed-")), paths, say=say)
    with machine.one_at_a_time(bed.mark, bed.folder, say):
        began = time.monotonic()
        try:
            _bring_up(bed, made, base, cache, audit=audit)
            say(f"level B is up after {time.monotonic() - began:.1f} s: {bed.server}")
            yield bed
        finally:
            bed.close()


def cache_folder() -> Path:
    """Where images are kept, beside the programs."""
    cache = os.environ.get("RAYPLANE_CACHE")
    base = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rayplane")
    return base / _CACHE


def _bring_up(bed: LevelB, made: Image, base: Image, cache: Path, *, audit: bool) -> None:
    bed.make_keys()
    bed.start_machine()
    bed.start_api(real_nodes=True, audit=audit)
    bed.start_controllers(real_nodes=True)
    bed.start_containerd(base, cache)
    bed.start_node()
    bed.install_kuberay()
    bed.start_operator(prefix=bed.resolving)
    bed.api.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": STORAGE_CLASS},
            "provisioner": "kubernetes.io/no-provisioner",
        }
    )
    bed.import_image(image.pause_image(cache, bed.tools["pause"]))
    bed.import_image(made, without=[digest for digest, blob in base.blobs.items() if isinstance(blob, Path)])
    bed.image, bed.image_digest, bed.image_id = made.reference, made.digest, made.id
    bed.wait("kubelet", "kube-proxy", "coredns", "kube-controller-manager", "kube-scheduler", "ray-operator")
    wait_for("the node ready", bed.node_ready, seconds=120.0)
