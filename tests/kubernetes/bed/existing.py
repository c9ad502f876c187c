"""A cluster that somebody else runs, named by KUBECONFIG: with KubeRay and nodes of its own, none of it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayplane.errors import Unavailable, Unsupported
from tests.kubernetes.bed.access import Access


class Existing(Access):
    """The surface of a bed, as far as another's cluster has it: whatever acts on a component raises Unsupported."""

    def __getattr__(self, name: str) -> Any:
        raise Unsupported(f"This needs '{name}' of a bed, and the cluster of KUBECONFIG is not one.")

    def left_over(self) -> list[str]:
        """Nothing of it is ours."""
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
