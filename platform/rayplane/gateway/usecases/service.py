"""Services: what their specs must meet."""

from __future__ import annotations

from rayplane.errors import Refused
from rayplane.gateway.usecases import nodes, packages
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.nouns.base import Object
from rayplane.nouns.service import ServiceSpec


def check(team: Object, name: str, spec: ServiceSpec, platform: Platform, *, ask: bool = True) -> None:
    """Raise NotFound for a cluster, InvalidSpec for a package that is not there, and whatever forbids its nodes.

    ``ask``: the backend is asked too, which is for those who may write the service.
    """
    if spec.cluster is not None:
        platform.cluster(team.metadata.name, spec.cluster)
    elif spec.nodes is not None:
        nodes.check_service(team, name, spec, spec.nodes, platform, ask=ask)
    packages.check(team.metadata.name, spec.package, "service.package", platform)


def check_place(team: Object, name: str, spec: ServiceSpec, before: Object | None, platform: Platform) -> None:
    """Raise NotFound for a cluster that is gone, Refused if nodes of its own don't fit into the team's quota.

    To be called in the transaction that writes the service.
    """
    if spec.cluster is not None:
        platform.cluster(team.metadata.name, spec.cluster)
        return
    assert spec.nodes is not None
    old = None if before is None else ServiceSpec.model_validate(before.spec).nodes
    held = None if old is None else nodes.demand(old.as_cluster(), team_spec(team))
    nodes.check_quota(team, "Service", name, nodes.demand(spec.nodes.as_cluster(), team_spec(team)), held, platform)


def check_change(team: Object, before: Object, spec: ServiceSpec) -> None:
    """Raise Refused if the service is to move: its application would stay where it is."""
    old = ServiceSpec.model_validate(before.spec)
    title = f"'{team.metadata.name}/{before.metadata.name}'"
    if old.cluster != spec.cluster:
        raise Refused(
            f"service.cluster: {title} is on {_place(old)}, it can't move to {_place(spec)}.",
            remedy="Delete it and apply it anew.",
        )
    if old.nodes is None or spec.nodes is None:
        return
    was, wanted = (nodes.backend_of(n, team_spec(team)) for n in (old.nodes, spec.nodes))
    if was != wanted:
        raise Refused(
            f"service.nodes.backend: {title} has its nodes from '{was}', it can't move to '{wanted}'.",
            remedy="Delete it and apply it anew.",
        )


def _place(spec: ServiceSpec) -> str:
    return "nodes of its own" if spec.cluster is None else f"'{spec.cluster}'"
