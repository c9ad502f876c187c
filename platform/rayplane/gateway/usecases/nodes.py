"""Nodes of a job's or a service's own: what asking for them must meet, and all that a team asks for together."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.errors import Refused, Unsupported
from rayplane.gateway.admission import quota
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Capability, JobRef, Reader, ServiceRef
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.gateway.usecases.team import check_backend
from rayplane.nouns.base import Object
from rayplane.nouns.cluster import ClusterSpec, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import TERMINAL, JobSpec
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import TeamSpec, Usage


def backend_of(nodes: Nodes, team: TeamSpec) -> str:
    """The name of the backend that the nodes come from."""
    return nodes.backend or team.backend


def environment(nodes: Nodes, team: Object, platform: Platform) -> Environment | None:
    """The environment that such nodes would have; None if it can't be known before they run."""
    return platform.readers(backend_of(nodes, team_spec(team))).environment(nodes.as_cluster())


def check_job(team: Object, name: str, spec: JobSpec, nodes: Nodes, platform: Platform) -> None:
    """Raise InvalidSpec, Refused or Unsupported with the reasons why the job can't have its nodes."""
    reader = _reader(team, "job", Capability.JOB, nodes, platform)
    size = size_of(team_spec(team), nodes.size, team_name=team.metadata.name, where="job.nodes.size")
    ref = JobRef(team=team.metadata.name, name=name, uid="0" * 32, attempt=1)
    _refuse(f"Job '{ref}'", reader.preflight_job(ref, spec, size))


def check_service(team: Object, name: str, spec: ServiceSpec, nodes: Nodes, platform: Platform) -> None:
    """Raise InvalidSpec, Refused or Unsupported with the reasons why the service can't have its nodes."""
    reader = _reader(team, "service", Capability.SERVICE, nodes, platform)
    size = size_of(team_spec(team), nodes.size, team_name=team.metadata.name, where="service.nodes.size")
    ref = ServiceRef(team=team.metadata.name, name=name, uid="0" * 32)
    _refuse(f"Service '{ref}'", reader.preflight_service(ref, spec, size))


def check_quota(
    team: Object, kind: str, name: str, wanted: ClusterSpec, before: ClusterSpec | None, platform: Platform
) -> None:
    """Raise Refused if it does not fit into what the team's other clusters, services and jobs leave of its quota.

    ``wanted`` is the cluster that it is, or that its nodes make up; ``before`` what it was. To be called in the
    transaction that writes it, so that two at once can't both take the last of it.
    """
    spec = team_spec(team)
    others = quota.total(
        _demand(cluster, spec)
        for obj, cluster in _holders(team.metadata.name, platform)
        if (obj.kind, obj.metadata.name) != (kind, name)
    )
    held = None if before is None else _demand(before, spec)
    quota.require(spec.quota, others, _demand(wanted, spec), held, what=f"{kind} '{team.metadata.name}/{name}'")


def _holders(team: str, platform: Platform) -> Iterator[tuple[Object, ClusterSpec]]:
    """Whatever of the team holds nodes or may come to, with the cluster that these make up."""
    for cluster in platform.store.each("Cluster", team):
        yield cluster, ClusterSpec.model_validate(cluster.spec)
    for service in platform.store.each("Service", team):
        if (nodes := service.spec.get("nodes")) is not None:
            yield service, Nodes.model_validate(nodes).as_cluster()
    for job in platform.store.each("Job", team):
        # A job ends only after its nodes are freed.
        if (nodes := job.spec.get("nodes")) is not None and job.status.get("phase") not in TERMINAL:
            yield job, Nodes.model_validate(nodes).as_cluster()


def _reader(team: Object, noun: str, capability: Capability, nodes: Nodes, platform: Platform) -> Reader:
    backend = backend_of(nodes, team_spec(team))
    check_backend(backend, f"{noun}.nodes.backend")
    reader = platform.readers(backend)
    if capability not in reader.capabilities:
        raise Unsupported(
            f"{noun}.nodes: the backend '{backend}' has no nodes for one {noun} alone.",
            remedy=f"Name a cluster of the team instead: {noun}.cluster.",
        )
    return reader


def _refuse(what: str, reasons: list[str]) -> None:
    if reasons:
        raise Refused(f"{what} can't have nodes of its own: {' '.join(reasons)}")


def _demand(spec: ClusterSpec, team: TeamSpec) -> Usage:
    # A size that an admin took away since: what was granted under it is not known any more, so only the cluster counts.
    size = team.sizes.get(spec.size)
    return Usage(clusters=1) if size is None else quota.demand(spec, size)
