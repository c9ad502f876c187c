"""Nodes of a job's or a service's own: what asking for them must meet, and all that a team asks for together."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.errors import Unsupported
from rayplane.gateway.admission import quota
from rayplane.gateway.backends.base import Capability, Reader
from rayplane.gateway.store.objects import NO_CLUSTER
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.gateway.usecases.team import check_backend
from rayplane.nouns.base import Object
from rayplane.nouns.cluster import ClusterSpec, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import UNFINISHED
from rayplane.nouns.team import TeamSpec, Usage


def backend_of(nodes: Nodes, team: TeamSpec) -> str:
    """The name of the backend that the nodes come from."""
    return nodes.backend or team.backend


def environment(nodes: Nodes, team: Object, platform: Platform) -> Environment | None:
    """The environment that such nodes would have; None if it can't be known before they run."""
    return platform.readers(backend_of(nodes, team_spec(team))).environment(nodes.as_cluster())


def check_quota(team: Object, kind: str, name: str, wanted: Usage, held: Usage | None, platform: Platform) -> None:
    """Raise Refused if it does not fit into what the team's other clusters, services and jobs leave of its quota.

    ``held`` is what it was granted before. To be called in the transaction that writes it, so that two at once can't
    both take the last of it.
    """
    spec = team_spec(team)
    if not quota.limits_compute(spec.quota):
        return
    others = quota.total(
        usage
        for obj, usage in _holders(team.metadata.name, spec, platform)
        if (obj.kind, obj.metadata.name) != (kind, name)
    )
    quota.require(spec.quota, others, wanted, held, what=f"{kind} '{team.metadata.name}/{name}'")


def demand(spec: ClusterSpec, team: TeamSpec, *, suspended: bool = False) -> Usage:
    """The most that a cluster may come to hold, or the nodes that make one up; ``suspended``: by the platform."""
    # A size that an admin took away since: what was granted under it is not known any more, so only the cluster counts.
    size = team.sizes.get(spec.size)
    return Usage(clusters=1) if size is None else quota.demand(spec, size, suspended=suspended)


def _holders(team: str, spec: TeamSpec, platform: Platform) -> Iterator[tuple[Object, Usage]]:
    """Whatever of the team holds nodes or may come to, with the most that it may."""
    for cluster in platform.store.each("Cluster", team):
        suspended = cluster.status.get("suspension") is not None
        yield cluster, demand(ClusterSpec.model_validate(cluster.spec), spec, suspended=suspended)
    for service in platform.store.each("Service", team):
        if (nodes := service.spec.get("nodes")) is not None:
            yield service, demand(Nodes.model_validate(nodes).as_cluster(), spec)
    for job in platform.store.each("Job", team, phases=UNFINISHED, cluster=NO_CLUSTER):
        # A job ends only after its nodes are freed.
        if (nodes := job.spec.get("nodes")) is not None:
            yield job, demand(Nodes.model_validate(nodes).as_cluster(), spec)


def reader(team: Object, noun: str, capability: Capability, nodes: Nodes, platform: Platform) -> Reader:
    """The backend that the nodes come from; raises InvalidSpec or Refused for one that is not known or not offered,
    Unsupported for one that has no nodes for a ``noun`` alone."""
    backend = backend_of(nodes, team_spec(team))
    check_backend(backend, f"{noun}.nodes.backend", platform)
    known = platform.readers(backend)
    if capability not in known.capabilities:
        raise Unsupported(
            f"{noun}.nodes: the backend '{backend}' has no nodes for one {noun} alone.",
            remedy=f"Name a cluster of the team instead: {noun}.cluster.",
        )
    return known
