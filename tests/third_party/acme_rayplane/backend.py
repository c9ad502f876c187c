"""A backend: the Ray cluster of the company's laboratory, which others run."""

from __future__ import annotations

import os

from rayplane.gateway.backends.base import ClusterRef, Observation
from rayplane.gateway.backends.existing import ExistingBackend, ExistingClusters
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.team import Size
from rayplane.settings import GatewaySettings


class LabClusters(ExistingClusters):
    """The one cluster at the URL ``ACME_LAB``, so that no spec has to know its address. Without it there is none."""

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """Require that the laboratory's cluster answers."""
        return super().preflight(ref, _in_the_lab(spec), size)

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """Ask the laboratory's cluster."""
        return super().observe(ref, _in_the_lab(spec))


class LabBackend(ExistingBackend):
    """A backend with the laboratory's cluster alone."""

    name = "lab"

    def __init__(self, settings: GatewaySettings) -> None:
        self.clusters = LabClusters(settings)


def _in_the_lab(spec: ClusterSpec) -> ClusterSpec:
    return spec.model_copy(update={"address": os.environ.get("ACME_LAB")})
