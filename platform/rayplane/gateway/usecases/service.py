"""Services: what their specs must meet."""

from __future__ import annotations

from rayplane.gateway.usecases import packages
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.service import ServiceSpec


def check(team: str, spec: ServiceSpec, platform: Platform) -> None:
    """Raise NotFound for a cluster, InvalidSpec for a package that is not there."""
    platform.cluster(team, spec.cluster)
    packages.check(team, spec.package, "service.package", platform)
