"""Clusters: what their specs must meet (size, backend, quota), and what forbids to delete one."""

from __future__ import annotations

from rayplane.errors import Conflict, InvalidSpec, Refused
from rayplane.gateway.admission import quota
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import ClusterRef
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.gateway.usecases.team import check_backend
from rayplane.nouns.base import Object
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.team import TeamSpec, Usage

_FIXED_SIZE = frozenset({"local", "existing"})
"""Backends whose clusters are one head that stays: they add no workers and end nothing by the clock."""


def check(team: Object, name: str, spec: ClusterSpec, platform: Platform) -> None:
    """Raise InvalidSpec or Refused with the reasons why the team can't have such a cluster, whatever else it has."""
    spec_of_team = team_spec(team)
    size = size_of(spec_of_team, spec.size, team_name=team.metadata.name)
    backend = backend_of(spec, spec_of_team)
    check_backend(backend, "cluster.backend")
    check_acted_on(spec, backend)
    ref = ClusterRef(team=team.metadata.name, name=name, uid="")
    reasons = platform.readers(backend).preflight(ref, spec, size)
    if reasons:
        raise Refused(f"Cluster '{ref}' can't be made: {' '.join(reasons)}")


def check_quota(team: Object, name: str, spec: ClusterSpec, before: Object | None, platform: Platform) -> None:
    """Raise Refused if the cluster does not fit into what the team's other clusters leave of its quota.

    To be called in the transaction that writes the cluster, so that two at once can't both take the last of it.
    """
    sizes = team_spec(team)
    others = quota.total(
        _demand(ClusterSpec.model_validate(other.spec), sizes)
        for other in platform.store.each("Cluster", team.metadata.name)
        if other.metadata.name != name
    )
    held = None if before is None else _demand(ClusterSpec.model_validate(before.spec), sizes)
    what = f"Cluster '{team.metadata.name}/{name}'"
    quota.require(sizes.quota, others, _demand(spec, sizes), held, what=what)


def check_change(team: Object, before: Object, spec: ClusterSpec) -> None:
    """Raise Refused for a change of what a cluster keeps for its life. One that is down has no size yet."""
    spec_of_team = team_spec(team)
    old = ClusterSpec.model_validate(before.spec)
    down = old.suspended and ClusterStatus.model_validate(before.status).phase == "Suspended"
    changed = {
        "size": (old.size, spec.size) if not down else None,
        "backend": (backend_of(old, spec_of_team), backend_of(spec, spec_of_team)),
        "address": (old.address, spec.address),
    }
    for field, values in changed.items():
        if values is not None and values[0] != values[1]:
            raise Refused(
                f"cluster.{field}: '{team.metadata.name}/{before.metadata.name}' has '{values[0]}', "
                f"which can't become '{values[1]}'.",
                remedy="Delete it and apply it anew.",
            )


def check_deletion(cluster: Object, platform: Platform) -> None:
    """Raise Conflict while a service lives on the cluster or a job on it has not ended."""
    team, name = cluster.metadata.team, cluster.metadata.name
    services = [s.metadata.name for s in platform.store.each("Service", team) if s.spec.get("cluster") == name]
    if services:
        raise Conflict(
            f"Cluster '{team}/{name}' hosts {_listed('service', services)}.",
            remedy=f"Delete it first: rayplane service delete {services[0]} --team {team}",
        )
    jobs = [
        job.metadata.name
        for job in platform.store.each("Job", team)
        if job.spec.get("cluster") == name and job.status.get("phase") not in TERMINAL
    ]
    if jobs:
        raise Conflict(
            f"Cluster '{team}/{name}' runs {_listed('job', jobs)}.",
            remedy=f"Wait for it, or stop it: rayplane job stop {jobs[0]} --team {team}",
        )


def backend_of(spec: ClusterSpec, team: TeamSpec) -> str:
    """The name of the backend that the cluster is on."""
    return spec.backend or team.backend


def check_acted_on(spec: ClusterSpec, backend: str) -> None:
    """Raise InvalidSpec for what would be accepted and then ignored."""
    if backend not in _FIXED_SIZE:
        return
    wanted = {
        "workers": spec.workers.max > 0,  # min is never above max
        "idle_timeout": spec.idle_timeout is not None,
        "max_lifetime": spec.max_lifetime is not None,
    }
    for field, is_wanted in wanted.items():
        if is_wanted:
            raise InvalidSpec(f"cluster.{field}: not acted on yet by backend '{backend}'.", remedy="Leave it out.")


def _demand(spec: ClusterSpec, team: TeamSpec) -> Usage:
    # A size that an admin took away since: what was granted under it is not known any more, so only the cluster counts.
    size = team.sizes.get(spec.size)
    return Usage(clusters=1) if size is None else quota.demand(spec, size)


def _listed(noun: str, names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{noun}{'s' if len(names) > 1 else ''} {shown}"
