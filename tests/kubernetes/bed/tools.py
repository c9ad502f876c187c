"""Paths of the bed's programs: from KUBEBUILDER_ASSETS, else from `make kubernetes-tools`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from rayplane.errors import Unavailable

BUILD = Path(__file__).parents[1] / "tools" / "build"

LEVEL_A = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "ray-operator",
    "kwok",
    "crds",
    "rbac",
)
LEVEL_B = (
    *(name for name in LEVEL_A if name != "kwok"),
    *(
        "kubelet",
        "kube-proxy",
        "containerd",
        "containerd-shim-runc-v2",
        "ctr",
        "bridge",
        "host-local",
        "loopback",
        "portmap",
    ),
    *("coredns", "pause", "runc", "nft", "debootstrap"),
)


def find(names: Iterable[str]) -> dict[str, Path]:
    """The path of each program (or folder of manifests). Raises Unavailable naming those that are missing."""
    listed = subprocess.run([str(BUILD), "--list"], check=True, capture_output=True, text=True).stdout
    built = dict(line.split("\t") for line in listed.splitlines() if not line.startswith("missing\t"))
    paths = {name: path for name in names if (path := _asset(name) or _built(built, name)) is not None}
    if missing := [name for name in names if name not in paths]:
        raise Unavailable(
            f"The Kubernetes test bed lacks {', '.join(missing)}.",
            remedy="Build what is missing: make kubernetes-tools",
        )
    return paths


def _asset(name: str) -> Path | None:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(folder) / name if folder else None
    return path if path is not None and name in ("etcd", "kube-apiserver", "kubectl") and path.exists() else None


def _built(built: dict[str, str], name: str) -> Path | None:
    return Path(built[name]) if name in built else None
