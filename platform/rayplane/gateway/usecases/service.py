"""Services: what their specs must meet."""

from __future__ import annotations

from rayplane.errors import Refused
from rayplane.gateway.usecases import packages
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import Object
from rayplane.nouns.service import ServiceSpec


def check(team: str, spec: ServiceSpec, platform: Platform) -> None:
    """Raise NotFound for a cluster, InvalidSpec for a package that is not there."""
    platform.cluster(team, spec.cluster)
    packages.check(team, spec.package, "service.package", platform)


def check_change(before: Object, spec: ServiceSpec) -> None:
    """Raise Refused if the service is to move: its application would stay where it is."""
    old = before.spec.get("cluster")
    if old != spec.cluster:
        raise Refused(
            f"service.cluster: '{before.metadata.team}/{before.metadata.name}' is on '{old}', "
            f"it can't move to '{spec.cluster}'.",
            remedy="Delete it and apply it anew.",
        )
