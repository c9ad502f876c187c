"""Nodes that belong to one job or service: their backend, and the quota that everything of a team shares."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.errors import Unsupported
from rayplane.gateway.admission import quota
from rayplane.gateway.backends.base import JobReader, ServiceReader
from rayplane.gateway.store.objects import NO_CLUSTER
from rayplane.gateway.store.typed import AnyObject, Team
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.team import check_backend
from rayplane.nouns import CLUSTER, JOB, SERVICE
from rayplane.nouns.cluster import ClusterSpec, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import UNFINISHED
from rayplane.nouns.team import TeamSpec, Usage


def backend_of(nodes: Nodes, team: TeamSpec) -> str:
    """The name of the backend that provides the nodes: their own, else the team's."""
    return nodes.backend or team.backend


def environment(nodes: Nodes, team: Team, platform: Platform) -> Environment | None:
    """The environment that such nodes would have; None if the backend only knows it once they run."""
    return platform.readers(backend_of(nodes, team.spec)).environment(nodes.as_cluster())


def check_quota(team: Team, kind: str, name: str, wanted: Usage, granted: Usage | None, platform: Platform) -> None:
    """Raise Refused if ``wanted`` does not fit into the quota that the team's other clusters, services and jobs leave.

    ``granted`` is what the same object was granted before. Call it in the transaction that writes the object, so that
    two concurrent writes can't both take the last of the quota.
    """
    spec = team.spec
    if not quota.limits_compute(spec.quota):
        return
    others = quota.total(
        usage
        for obj, usage in _holders(team.metadata.name, spec, platform)
        if (obj.kind, obj.metadata.name) != (kind, name)
    )
    quota.require(spec.quota, others, wanted, granted, what=f"{kind} '{team.metadata.name}/{name}'")


def demand(spec: ClusterSpec, team: TeamSpec, *, suspended: bool = False) -> Usage:
    """The most that a cluster, or the own nodes of a job or service, can hold; ``suspended``: by the platform."""
    # If an admin has removed the size since, the amount granted under it is unknown, so only the cluster counts.
    size = team.sizes.get(spec.size)
    return Usage(clusters=1) if size is None else quota.demand(spec, size, suspended=suspended)


def _holders(team: str, spec: TeamSpec, platform: Platform) -> Iterator[tuple[AnyObject, Usage]]:
    """Each object of the team that holds nodes or may come to hold some, with the most that it can hold."""
    for cluster in platform.store.each(CLUSTER, team):
        suspended = cluster.status.suspension is not None
        yield cluster, demand(cluster.spec, spec, suspended=suspended)
    for service in platform.store.each(SERVICE, team):
        if (nodes := service.spec.nodes) is not None:
            yield service, demand(nodes.as_cluster(), spec)
    for job in platform.store.each(JOB, team, phases=UNFINISHED, cluster=NO_CLUSTER):
        # The reconciler ends a job only after its nodes are freed, so an unfinished one may still hold them.
        if (nodes := job.spec.nodes) is not None:
            yield job, demand(nodes.as_cluster(), spec)


def jobs(team: Team, nodes: Nodes, platform: Platform) -> JobReader:
    """The port to jobs of the backend that provides the nodes.

    Raises InvalidSpec for an unknown backend, Refused for one that is not offered here, Unsupported for one that has no
    nodes for a single job.
    """
    backend = _offered(team, "job", nodes, platform)
    port = platform.readers(backend).jobs
    if port is None:
        raise _no_nodes(backend, "job")
    return port


def services(team: Team, nodes: Nodes, platform: Platform) -> ServiceReader:
    """The port to services of the backend that provides the nodes; raises as ``jobs`` does."""
    backend = _offered(team, "service", nodes, platform)
    port = platform.readers(backend).services
    if port is None:
        raise _no_nodes(backend, "service")
    return port


def _offered(team: Team, noun: str, nodes: Nodes, platform: Platform) -> str:
    """The name of the backend that provides the nodes; raises InvalidSpec or Refused if it is not offered here."""
    backend = backend_of(nodes, team.spec)
    check_backend(backend, f"{noun}.nodes.backend", platform)
    return backend


def _no_nodes(backend: str, noun: str) -> Unsupported:
    return Unsupported(
        f"{noun}.nodes: the backend '{backend}' has no nodes for one {noun} alone.",
        remedy=f"Name a cluster of the team instead: {noun}.cluster.",
    )
