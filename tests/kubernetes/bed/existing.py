"""An existing cluster, named by KUBECONFIG, with its own KubeRay and nodes; the tests stop none of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayplane.errors import Unavailable, Unsupported
from tests.kubernetes.bed.access import Access


class Existing(Access):
    """The interface of a bed, for an existing cluster: methods that act on a component raise Unsupported."""

    def __getattr__(self, name: str) -> Any:
        raise Unsupported(f"This needs '{name}' of a bed, and the cluster of KUBECONFIG is not one.")

    def left_over(self) -> list[str]:
        """Nothing: the tests started none of its parts."""
        return []


@contextmanager
def existing(kubeconfig: Path, folder: Path) -> Iterator[Existing]:
    """The cluster of a kubeconfig. Raises Unavailable if it has no KubeRay."""
    cluster = Existing(kubeconfig, folder)
    try:
        if cluster.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "rayclusters.ray.io") is None:
            raise Unavailable(
                f"The cluster of KUBECONFIG={kubeconfig} has no KubeRay.",
                remedy="Install its operator there, or unset KUBECONFIG for a bed of the tests' own.",
            )
        yield cluster
    finally:
        cluster.close()
