"""Clusters: what their specs must meet, what forbids to delete one; suspend, resume, extend; what they have held."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from rayplane.errors import Conflict, InvalidInput, InvalidSpec, Refused, Unsupported
from rayplane.gateway.admission import lifetime
from rayplane.gateway.admission.roles import Principal, authorize, may
from rayplane.gateway.backends.base import Capability, ClusterRef, Reader
from rayplane.gateway.usecases import nodes, operations
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.nouns.base import Object, utcnow
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus, ClusterUsage, Lease
from rayplane.nouns.events import Operation
from rayplane.nouns.job import UNFINISHED
from rayplane.nouns.team import TeamSpec, Usage


def ref_of(
    team: str, name: str, spec: ClusterSpec, before: Object | None, principal: Principal | None = None
) -> ClusterRef:
    """Name a cluster to its backend. An admin of the platform chose its address: ``principal`` now, or one before."""
    placed = principal is not None and may(principal, "operate")
    if before is not None and ClusterSpec.model_validate(before.spec).address == spec.address:
        placed = placed or ClusterStatus.model_validate(before.status).placed
    return ClusterRef(team=team, name=name, uid=before.metadata.uid if before else "", placed=placed)


def first_status(spec: ClusterSpec, principal: Principal) -> ClusterStatus:
    """The status of a cluster that the principal makes."""
    return ClusterStatus(placed=spec.address is not None and may(principal, "operate"))


def note_placed(cluster: Object, spec: ClusterSpec, principal: Principal, platform: Platform) -> Object:
    """Note that an admin of the platform applied a cluster that another made: the address is the admin's choice now.

    To be called in the transaction that wrote the cluster.
    """
    status = ClusterStatus.model_validate(cluster.status)
    if spec.address is None or status.placed or not may(principal, "operate"):
        return cluster
    meta = cluster.metadata
    detail = {"address": spec.address}
    platform.store.audit(principal.name, "place", kind="Cluster", team=meta.team or "", name=meta.name, detail=detail)
    return platform.store.set_status(meta.uid, status.model_copy(update={"placed": True}), wanted=True)


def check_quota(
    team: Object,
    name: str,
    spec: ClusterSpec,
    before: Object | None,
    platform: Platform,
    *,
    resuming: bool = False,
) -> None:
    """Raise Refused if the cluster does not fit into what all else that the team has leaves of its quota.

    To be called in the transaction that writes the cluster, so that two at once can't both take the last of it.
    ``resuming``: it is to hold compute though the platform has suspended it.
    """
    sizes = team_spec(team)
    held = None if before is None else _demand(before, ClusterSpec.model_validate(before.spec), sizes)
    wanted = _demand(None if resuming else before, spec, sizes)
    nodes.check_quota(team, "Cluster", name, wanted, held, platform)


def suspend(team: str, name: str, *, principal: Principal, platform: Platform) -> tuple[Object, Operation]:
    """Want a cluster to hold no compute until somebody resumes it. One that is suspended already stays so.

    Raises Unsupported where its backend can't, Conflict while it is being deleted.
    """

    def change(found: Object, spec: ClusterSpec, status: ClusterStatus) -> Object:
        _require_suspend(_reader(found, platform), f"Cluster '{team}/{name}'")
        store, uid = platform.store, found.metadata.uid
        if status.suspension is not None:  # from now on a person keeps it so: it neither resumes nor goes by itself
            found = store.set_status(uid, status.model_copy(update={"suspension": None, "idle_since": None}))
        if spec.suspended:
            return found
        return store.update_spec(uid, {**found.spec, "suspended": True})

    return _ask("suspend", team, name, change, principal=principal, platform=platform)


def resume(team: str, name: str, *, principal: Principal, platform: Platform) -> tuple[Object, Operation]:
    """Want a suspended cluster to run again, whoever suspended it. For one that runs, idleness is counted anew.

    Raises Refused if the team's quota has no room for it now, Conflict if its lifetime is over or it is being deleted.
    """

    def change(found: Object, spec: ClusterSpec, status: ClusterStatus) -> Object:
        if status.suspension is None and not spec.suspended:
            return platform.store.set_status(found.metadata.uid, status.model_copy(update={"idle_since": None}))
        require_life(found, spec, platform)
        running = spec.model_copy(update={"suspended": False})
        check_quota(platform.team(team), name, running, found, platform, resuming=True)
        return _run_again(found, status, platform)

    return _ask("resume", team, name, change, principal=principal, platform=platform)


def extend(
    team: str,
    name: str,
    seconds: float,
    *,
    principal: Principal,
    platform: Platform,
    clock: Callable[[], datetime] = utcnow,
) -> tuple[Object, Operation]:
    """Keep a cluster for so many seconds from now: it is neither suspended for idleness nor ended before.

    One whose lifetime is over, but which is not being deleted yet, runs again. Deadlines that are later stay. Raises
    InvalidInput for no time, Refused beyond what the team's admin allows or where there is nothing to extend.
    """
    if seconds <= 0:
        raise InvalidInput("A cluster is extended by a time above zero.", remedy="Say how long from now: 2h, say.")

    def change(found: Object, spec: ClusterSpec, status: ClusterStatus) -> Object:
        owner = platform.team(team)
        terms = terms_of(spec, team_spec(owner), _reader(found, platform))
        now, created = clock(), found.metadata.created_at or clock()
        given = lifetime.extend(
            terms, team_spec(owner), seconds, created_at=created, now=now, what=f"Cluster '{team}/{name}'"
        )
        status.kept_until = _later(status.kept_until, given.kept_until)
        status.lives_until = _later(status.lives_until, given.lives_until)
        suspension = status.suspension
        if suspension is not None and suspension.reason == "Lifetime":
            check_quota(owner, name, spec, found, platform, resuming=True)
            status.suspension = None
        elif suspension is not None and suspension.delete_at is not None:
            suspension.delete_at = _later(suspension.delete_at, given.kept_until)
        return platform.store.set_status(found.metadata.uid, status, wanted=True)

    detail = {"seconds": seconds}
    return _ask("extend", team, name, change, principal=principal, platform=platform, detail=detail)


def note_work(cluster: Object, platform: Platform) -> None:
    """The cluster gets something to do: it is not idle, and one that was suspended for idleness is wanted running.

    To be called in the transaction that writes the work. Where the quota has no room for it now, the reconciler
    resumes it once there is. Raises Conflict if its lifetime is over.
    """
    found = platform.store.get_by_uid(cluster.metadata.uid)
    status = ClusterStatus.model_validate(found.status)
    require_life(found, ClusterSpec.model_validate(found.spec), platform)
    if status.suspension is not None:
        resume_for_work(found, platform)
    elif status.idle_since is not None:
        platform.store.set_status(found.metadata.uid, status.model_copy(update={"idle_since": None}))


def note_wish(before: Object, found: Object, spec: ClusterSpec, platform: Platform) -> Object:
    """Its spec was changed: what the platform decided of it gives way to what a person wants now.

    To be called in the transaction that wrote ``found``. Raises Conflict if it is wanted running and its lifetime is
    over, Refused if the team's quota has no room for it now.
    """
    held, status = ClusterSpec.model_validate(before.spec), ClusterStatus.model_validate(found.status)
    if spec.suspended:
        wanted = not held.suspended
    elif held.suspended:
        require_life(found, spec, platform)
        wanted = True
    else:
        wanted = status.is_over and _life_over(found, spec, platform) is None
    if not wanted or (status.suspension is None and status.idle_since is None):
        return found
    if status.suspension is not None and not spec.suspended:
        owner = platform.store.get("Team", "", found.metadata.team or "")
        check_quota(owner, found.metadata.name, spec, found, platform, resuming=True)
    status.suspension = status.idle_since = None
    return platform.store.set_status(found.metadata.uid, status)


def require_life(cluster: Object, spec: ClusterSpec, platform: Platform) -> None:
    """Raise Conflict if the lifetime of a cluster with this spec is over: it takes nothing new, and runs no more."""
    team, name = cluster.metadata.team, cluster.metadata.name
    status, end = ClusterStatus.model_validate(cluster.status), _life_over(cluster, spec, platform)
    if status.is_over and status.suspension is not None:
        said = status.suspension.message
    elif end is not None:
        said = lifetime.ended(end)
    else:
        return
    raise Conflict(
        f"Cluster '{team}/{name}' takes nothing new, it is to be deleted: {said}",
        remedy=f"Give it more time first: rayplane cluster extend {name} 2h --team {team}",
    )


def _life_over(cluster: Object, spec: ClusterSpec, platform: Platform) -> datetime | None:
    """When the lifetime of a cluster with this spec ended; None if it has not."""
    team = team_spec(platform.store.get("Team", "", cluster.metadata.team or ""))
    end = end_of_life(cluster, spec, team, platform.readers(backend_of(spec, team)))
    return end if end is not None and platform.clock() >= end else None


def end_of_life(cluster: Object, spec: ClusterSpec, team: TeamSpec, reader: Reader) -> datetime | None:
    """When a cluster ends, with this spec in such a team; None: never, or it was not made yet."""
    created_at = cluster.metadata.created_at
    if created_at is None:
        return None
    lives_until = ClusterStatus.model_validate(cluster.status).lives_until
    return lifetime.end_of_life(terms_of(spec, team, reader), created_at, lives_until)


def resume_for_work(cluster: Object, platform: Platform) -> str:
    """Want a cluster that was suspended for idleness running; answers why that can't be now, empty if it is so.

    To be called in a transaction.
    """
    status = ClusterStatus.model_validate(cluster.status)
    spec = ClusterSpec.model_validate(cluster.spec)
    if status.suspension is None or status.suspension.reason != "Idle" or spec.suspended:
        return "" if status.suspension is None else status.suspension.message
    team, name = cluster.metadata.team or "", cluster.metadata.name
    try:
        check_quota(platform.store.get("Team", "", team), name, spec, cluster, platform, resuming=True)
    except Refused as exc:
        return str(exc)
    _run_again(cluster, status, platform)
    platform.store.audit("rayplane", "resume", kind="Cluster", team=team, name=name, detail={"for": "work"})
    return ""


def work_of(team: str, name: str, platform: Platform) -> str:
    """What the platform has to do on a cluster: a job that has not ended, or a service; empty if nothing."""
    job = next(platform.store.each("Job", team, phases=UNFINISHED, cluster=name), None)
    if job is not None:
        return f"job '{job.metadata.name}'"
    services = services_of(team, name, platform)
    return f"service '{services[0]}'" if services else ""


def services_of(team: str, name: str, platform: Platform) -> list[str]:
    """The services that the cluster hosts."""
    return [service.metadata.name for service in platform.store.each("Service", team, cluster=name)]


def terms_of(spec: ClusterSpec, team: TeamSpec, reader: Reader) -> lifetime.Terms:
    """When the cluster is given back; never, where its backend can't take compute back."""
    if Capability.SUSPEND not in reader.capabilities:
        return lifetime.Terms()
    return lifetime.terms_of(spec, team)


def usage(
    team: str,
    *,
    since: datetime | None,
    until: datetime | None,
    principal: Principal,
    platform: Platform,
    clock: Callable[[], datetime] = utcnow,
) -> list[ClusterUsage]:
    """What the team's clusters held between two instants (default: from the first lease until now), by cluster."""
    authorize(principal, "read", team)
    if not platform.store.is_archive(team):
        platform.store.get("Team", "", team)
    now = clock()
    end = min(until, now) if until is not None else now
    first = since if since is not None else datetime.min.replace(tzinfo=now.tzinfo)
    if first > end:
        raise InvalidInput("'since' comes after 'until', or after now.", remedy="Swap them.")
    return sum_up(platform.store.leases_between(team, first, end), since=first, until=end)


def sum_up(leases: Iterable[Lease], *, since: datetime, until: datetime) -> list[ClusterUsage]:
    """Resource-seconds of each cluster between two instants, the first one held first. Pure."""
    found: dict[str, ClusterUsage] = {}
    for lease in leases:
        of = found.setdefault(lease.cluster_uid, ClusterUsage(cluster=lease.cluster, cluster_uid=lease.cluster_uid))
        began, ended = max(lease.started_at, since), min(lease.ended_at or until, until)
        seconds = max(0.0, (ended - began).total_seconds())
        of.node_seconds += seconds
        of.core_seconds += seconds * lease.cpu
        of.gib_seconds += seconds * lease.memory / 2**30
        of.gpu_seconds += seconds * lease.gpu
        of.open += lease.ended_at is None
    return list(found.values())


def check_change(team: Object, before: Object, spec: ClusterSpec) -> None:
    """Raise Refused for a change of what a cluster keeps for its life. One that is down has no size yet."""
    spec_of_team = team_spec(team)
    old = ClusterSpec.model_validate(before.spec)
    status = ClusterStatus.model_validate(before.status)
    down = (old.suspended or status.suspension is not None) and status.phase == "Suspended"
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
    services = services_of(team or "", name, platform)
    if services:
        raise Conflict(
            f"Cluster '{team}/{name}' hosts {_listed('service', services)}.",
            remedy=f"Delete it first: rayplane service delete {services[0]} --team {team}",
        )
    jobs = [job.metadata.name for job in platform.store.each("Job", team or "", phases=UNFINISHED, cluster=name)]
    if jobs:
        raise Conflict(
            f"Cluster '{team}/{name}' runs {_listed('job', jobs)}.",
            remedy=f"Wait for it, or stop it: rayplane job stop {jobs[0]} --team {team}",
        )


def backend_of(spec: ClusterSpec, team: TeamSpec) -> str:
    """The name of the backend that the cluster is on."""
    return spec.backend or team.backend


def _ask(
    verb: operations.Verb,
    team: str,
    name: str,
    change: Callable[[Object, ClusterSpec, ClusterStatus], Object],
    *,
    principal: Principal,
    platform: Platform,
    detail: dict[str, float] | None = None,
) -> tuple[Object, Operation]:
    """One of a cluster's own verbs: what is wanted, its audit row and its operation, in one transaction."""
    authorize(principal, "write", team)
    store = platform.store
    with store.transaction():
        found = platform.cluster(team, name)
        status = ClusterStatus.model_validate(found.status)
        changed = change(found, ClusterSpec.model_validate(found.spec), status)
        if changed.metadata.resource_version != found.metadata.resource_version:
            store.audit(principal.name, verb, kind="Cluster", team=team, name=name, detail=detail)
        operation = operations.begin(store, changed, verb)
    platform.wake()
    return changed, operation


def _run_again(found: Object, status: ClusterStatus, platform: Platform) -> Object:
    store, uid = platform.store, found.metadata.uid
    status.suspension = status.idle_since = None
    changed = store.set_status(uid, status, wanted=True)
    return store.update_spec(uid, {**changed.spec, "suspended": False})


def _reader(cluster: Object, platform: Platform) -> Reader:
    team = team_spec(platform.store.get("Team", "", cluster.metadata.team or ""))
    return platform.readers(backend_of(ClusterSpec.model_validate(cluster.spec), team))


def _require_suspend(reader: Reader, what: str) -> None:
    if Capability.SUSPEND not in reader.capabilities:
        raise Unsupported(
            f"{what} can't be suspended: its backend '{reader.name}' does not run it.", remedy="Stop it yourself."
        )


def check_acted_on(spec: ClusterSpec, reader: Reader) -> None:
    """Raise InvalidSpec for what would be accepted and then ignored."""
    able = reader.capabilities
    if spec.workers.max > 0 and Capability.WORKERS not in able:
        raise InvalidSpec(
            f"cluster.workers: the backend '{reader.name}' has no worker nodes.",
            remedy="Leave it out, choose a larger size, or give the cluster a backend that has them.",
        )
    wanted = {
        "idle_timeout": spec.idle_timeout is not None,
        "delete_after_idle": spec.delete_after_idle is not None,
        "max_lifetime": spec.max_lifetime is not None,
        "suspended": spec.suspended,
    }
    for field, is_wanted in wanted.items():
        if is_wanted and Capability.SUSPEND not in able:
            raise InvalidSpec(
                f"cluster.{field}: the backend '{reader.name}' can't take a cluster's compute back.",
                remedy="Leave it out: whoever runs the cluster stops it.",
            )


def check_address(spec: ClusterSpec, reader: Reader) -> None:
    """Raise InvalidSpec for an address on a backend that makes clusters: what it made would count as another's."""
    if spec.address is not None and Capability.CREATE in reader.capabilities:
        raise InvalidSpec(
            f"cluster.address: the backend '{reader.name}' makes its clusters, it takes none that runs already.",
            remedy="Leave it out, or write backend: existing.",
        )


def _demand(cluster: Object | None, spec: ClusterSpec, team: TeamSpec) -> Usage:
    """What a cluster with this spec holds at most; nothing while the platform keeps ``cluster`` suspended."""
    suspended = cluster is not None and cluster.status.get("suspension") is not None
    return nodes.demand(spec, team, suspended=suspended)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _listed(noun: str, names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{noun}{'s' if len(names) > 1 else ''} {shown}"
