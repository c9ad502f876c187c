"""Services: the compute that they were granted, and the fields that can't change."""

from __future__ import annotations

from rayplane.errors import Refused
from rayplane.gateway.store.typed import Service, Team
from rayplane.gateway.usecases import nodes
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import TeamSpec, Usage


def granted(before: Service | None, team: TeamSpec) -> Usage | None:
    """The most that the own nodes of the stored service can hold; None if it has none."""
    old = None if before is None else before.spec.nodes
    return None if old is None else nodes.demand(old.as_cluster(), team)


def check_change(team: Team, before: Service, spec: ServiceSpec) -> None:
    """Raise Refused if the new spec moves the service: its application would stay where it runs."""
    old = before.spec
    title = f"'{team.metadata.name}/{before.metadata.name}'"
    if old.cluster != spec.cluster:
        raise Refused(
            f"service.cluster: {title} is on {_location_of(old)}, it can't move to {_location_of(spec)}.",
            remedy="Delete it and apply it anew.",
        )
    if old.nodes is None or spec.nodes is None:
        return
    old_backend, wanted = (nodes.backend_of(n, team.spec) for n in (old.nodes, spec.nodes))
    if old_backend != wanted:
        raise Refused(
            f"service.nodes.backend: {title} has its nodes from '{old_backend}', it can't move to '{wanted}'.",
            remedy="Delete it and apply it anew.",
        )


def _location_of(spec: ServiceSpec) -> str:
    return "nodes of its own" if spec.cluster is None else f"'{spec.cluster}'"
