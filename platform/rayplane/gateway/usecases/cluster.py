"""Clusters: checks of their specs and of their deletion; suspend, resume and extend; the compute that they held."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from rayplane.errors import Conflict, InvalidInput, InvalidSpec, Refused, Unsupported
from rayplane.gateway.admission import lifetime
from rayplane.gateway.admission.roles import Principal, authorize, may
from rayplane.gateway.backends.base import Capability, ClusterRef, Reader
from rayplane.gateway.store.typed import Cluster, Team
from rayplane.gateway.usecases import nodes, operations
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import CLUSTER, JOB, SERVICE, TEAM
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus, ClusterUsage, Lease
from rayplane.nouns.events import Operation
from rayplane.nouns.job import UNFINISHED
from rayplane.nouns.team import TeamSpec, Usage


def ref_of(
    team: str, name: str, spec: ClusterSpec, before: Cluster | None, principal: Principal | None = None
) -> ClusterRef:
    """Name a cluster to its backend.

    ``placed`` is true if an admin of the platform chose the address: ``principal`` now, or another admin earlier.
    """
    placed = principal is not None and may(principal, "operate")
    if before is not None and before.spec.address == spec.address:
        placed = placed or before.status.placed
    return ClusterRef(team=team, name=name, uid=before.metadata.uid if before else "", placed=placed)


def first_status(spec: ClusterSpec, principal: Principal) -> ClusterStatus:
    """The first status of a cluster that the principal creates."""
    return ClusterStatus(placed=spec.address is not None and may(principal, "operate"))


def note_placed(cluster: Cluster, spec: ClusterSpec, principal: Principal, platform: Platform) -> Cluster:
    """Note that an admin of the platform applied another user's cluster: the address counts as the admin's choice now.

    Call it in the transaction that wrote the cluster.
    """
    status = cluster.status
    if spec.address is None or status.placed or not may(principal, "operate"):
        return cluster
    meta = cluster.metadata
    detail = {"address": spec.address}
    platform.store.audit(principal.name, "place", kind="Cluster", team=cluster.team, name=meta.name, detail=detail)
    return platform.store.set_status(meta.uid, status.model_copy(update={"placed": True}), wanted=True)


def check_quota(
    team: Team,
    name: str,
    spec: ClusterSpec,
    before: Cluster | None,
    platform: Platform,
    *,
    resuming: bool = False,
) -> None:
    """Raise Refused if the cluster does not fit into the quota that the team's other objects leave.

    Call it in the transaction that writes the cluster, so that two concurrent writes can't both take the last of it.
    ``resuming``: count the cluster's compute although the platform has suspended it.
    """
    sizes = team.spec
    granted = None if before is None else _demand(before, before.spec, sizes)
    wanted = _demand(None if resuming else before, spec, sizes)
    nodes.check_quota(team, "Cluster", name, wanted, granted, platform)


def suspend(team: str, name: str, *, principal: Principal, platform: Platform) -> tuple[Cluster, Operation]:
    """Record that a cluster should hold no compute until a user resumes it; a suspended one stays suspended.

    Raises Unsupported if its backend can't suspend clusters, Conflict while the cluster is being deleted.
    """

    def change(cluster: Cluster) -> Cluster:
        _require_suspend(_reader(cluster, platform), f"Cluster '{team}/{name}'")
        store, uid, status = platform.store, cluster.metadata.uid, cluster.status
        if status.suspension is not None:  # the user keeps it so now: the reconciler neither resumes nor deletes it
            cluster = store.set_status(uid, status.model_copy(update={"suspension": None, "idle_since": None}))
        if cluster.spec.suspended:
            return cluster
        return store.update_spec(uid, {**cluster.spec_data, "suspended": True})

    return _apply_verb("suspend", team, name, change, principal=principal, platform=platform)


def resume(team: str, name: str, *, principal: Principal, platform: Platform) -> tuple[Cluster, Operation]:
    """Record that a suspended cluster should run again, whether a user or the platform suspended it.

    On a running cluster it only restarts the idle time. Raises Refused if the team's quota has no room for it now,
    Conflict if its lifetime is over or it is being deleted.
    """

    def change(cluster: Cluster) -> Cluster:
        spec, status = cluster.spec, cluster.status
        if status.suspension is None and not spec.suspended:
            return platform.store.set_status(cluster.metadata.uid, status.model_copy(update={"idle_since": None}))
        require_life(cluster, spec, platform)
        running = spec.model_copy(update={"suspended": False})
        check_quota(platform.team(team), name, running, cluster, platform, resuming=True)
        return _run_again(cluster, platform)

    return _apply_verb("resume", team, name, change, principal=principal, platform=platform)


def extend(
    team: str,
    name: str,
    seconds: float,
    *,
    principal: Principal,
    platform: Platform,
    clock: Callable[[], datetime] = utcnow,
) -> tuple[Cluster, Operation]:
    """Keep a cluster for ``seconds`` from now: until then the reconciler neither suspends it for idleness nor ends it.

    A cluster whose lifetime is over, but whose deletion has not begun, runs again. Later deadlines stay as they are.
    Raises InvalidInput unless ``seconds`` is above zero, Refused beyond what the team's admin allows or if the cluster
    has no deadline to extend.
    """
    if seconds <= 0:
        raise InvalidInput("A cluster is extended by a time above zero.", remedy="Give a time from now, such as 2h.")

    def change(cluster: Cluster) -> Cluster:
        spec, status = cluster.spec, cluster.status_copy()
        owner = platform.team(team)
        terms = terms_of(spec, owner.spec, _reader(cluster, platform))
        now, created = clock(), cluster.metadata.created_at or clock()
        extension = lifetime.extend(
            terms, owner.spec, seconds, created_at=created, now=now, what=f"Cluster '{team}/{name}'"
        )
        status.kept_until = _later(status.kept_until, extension.kept_until)
        status.lives_until = _later(status.lives_until, extension.lives_until)
        suspension = status.suspension
        if suspension is not None and suspension.reason == "Lifetime":
            check_quota(owner, name, spec, cluster, platform, resuming=True)
            status.suspension = None
        elif suspension is not None and suspension.delete_at is not None:
            suspension.delete_at = _later(suspension.delete_at, extension.kept_until)
        return platform.store.set_status(cluster.metadata.uid, status, wanted=True)

    detail = {"seconds": seconds}
    return _apply_verb("extend", team, name, change, principal=principal, platform=platform, detail=detail)


def note_work(cluster: Cluster, platform: Platform) -> None:
    """Note that the cluster gets a job or service: end its idle time, and resume it if it was suspended as idle.

    Call it in the transaction that writes the job or service. If the quota has no room for the cluster now, the
    reconciler resumes it once there is room. Raises Conflict if its lifetime is over.
    """
    current = platform.store.get_by_uid(cluster.metadata.uid, CLUSTER)
    status = current.status
    require_life(current, current.spec, platform)
    if status.suspension is not None:
        resume_for_work(current, platform)
    elif status.idle_since is not None:
        platform.store.set_status(current.metadata.uid, status.model_copy(update={"idle_since": None}))


def on_spec_changed(before: Cluster, cluster: Cluster, spec: ClusterSpec, platform: Platform) -> Cluster:
    """Let a user's change of the spec override the platform's own decision to suspend the cluster.

    Call it in the transaction that wrote ``cluster``. Raises Conflict if the user wants it running and its lifetime is
    over, Refused if the team's quota has no room for it now.
    """
    old, status = before.spec, cluster.status_copy()
    if spec.suspended:
        overrides = not old.suspended
    elif old.suspended:
        require_life(cluster, spec, platform)
        overrides = True
    else:
        overrides = status.is_over and _life_over(cluster, spec, platform) is None
    if not overrides or (status.suspension is None and status.idle_since is None):
        return cluster
    if status.suspension is not None and not spec.suspended:
        owner = platform.store.get(TEAM, "", cluster.team)
        check_quota(owner, cluster.metadata.name, spec, cluster, platform, resuming=True)
    status.suspension = status.idle_since = None
    return platform.store.set_status(cluster.metadata.uid, status)


def require_life(cluster: Cluster, spec: ClusterSpec, platform: Platform) -> None:
    """Raise Conflict if the lifetime of a cluster with this spec is over: it accepts no work and does not run again."""
    team, name = cluster.metadata.team, cluster.metadata.name
    status, end = cluster.status, _life_over(cluster, spec, platform)
    if status.is_over and status.suspension is not None:
        reason = status.suspension.message
    elif end is not None:
        reason = lifetime.ended(end)
    else:
        return
    raise Conflict(
        f"Cluster '{team}/{name}' takes nothing new, it is to be deleted: {reason}",
        remedy=f"Give it more time first: rayplane cluster extend {name} 2h --team {team}",
    )


def _life_over(cluster: Cluster, spec: ClusterSpec, platform: Platform) -> datetime | None:
    """The instant at which the lifetime of a cluster with this spec ended; None if it has not ended."""
    team = platform.store.get(TEAM, "", cluster.team).spec
    end = end_of_life(cluster, spec, team, platform.readers(backend_of(spec, team)))
    return end if end is not None and platform.clock() >= end else None


def end_of_life(cluster: Cluster, spec: ClusterSpec, team: TeamSpec, reader: Reader) -> datetime | None:
    """The instant at which a cluster with this spec ends in such a team; None if it never ends or is not stored yet."""
    return lifetime.end_of_life(terms_of(spec, team, reader), cluster.metadata.created_at, cluster.status.lives_until)


def resume_for_work(cluster: Cluster, platform: Platform) -> str:
    """Resume a cluster that idleness suspended; return the reason why it can't run now, empty if it was resumed.

    Call it in a transaction.
    """
    spec, status = cluster.spec, cluster.status
    if status.suspension is None or status.suspension.reason != "Idle" or spec.suspended:
        return "" if status.suspension is None else status.suspension.message
    team, name = cluster.team, cluster.metadata.name
    try:
        check_quota(platform.store.get(TEAM, "", team), name, spec, cluster, platform, resuming=True)
    except Refused as exc:
        return str(exc)
    _run_again(cluster, platform)
    platform.store.audit("rayplane", "resume", kind="Cluster", team=team, name=name, detail={"for": "work"})
    return ""


def work_of(team: str, name: str, platform: Platform) -> str:
    """The title of a job on the cluster that has not ended, or else of a service on it; empty if it has neither."""
    job = next(platform.store.each(JOB, team, phases=UNFINISHED, cluster=name), None)
    if job is not None:
        return f"job '{job.metadata.name}'"
    services = services_of(team, name, platform)
    return f"service '{services[0]}'" if services else ""


def services_of(team: str, name: str, platform: Platform) -> list[str]:
    """The services that the cluster hosts."""
    return [service.metadata.name for service in platform.store.each(SERVICE, team, cluster=name)]


def terms_of(spec: ClusterSpec, team: TeamSpec, reader: Reader) -> lifetime.Terms:
    """The timeouts by which the cluster is suspended and deleted; none if its backend can't suspend clusters."""
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
    """Compute that each of the team's clusters held between two instants (default: from the first lease until now).

    Raises InvalidInput if ``since`` is after the end, NotFound for an unknown team.
    """
    authorize(principal, "read", team)
    if not platform.store.is_archive(team):
        platform.store.get(TEAM, "", team)
    now = clock()
    end = min(until, now) if until is not None else now
    first = since if since is not None else datetime.min.replace(tzinfo=now.tzinfo)
    if first > end:
        raise InvalidInput("'since' comes after 'until', or after now.", remedy="Swap them.")
    return sum_up(platform.store.leases_between(team, first, end), since=first, until=end)


def sum_up(leases: Iterable[Lease], *, since: datetime, until: datetime) -> list[ClusterUsage]:
    """Resource-seconds of each cluster between two instants, in the order of the clusters' first leases. Pure."""
    usages: dict[str, ClusterUsage] = {}
    for lease in leases:
        row = usages.setdefault(lease.cluster_uid, ClusterUsage(cluster=lease.cluster, cluster_uid=lease.cluster_uid))
        began, ended = max(lease.started_at, since), min(lease.ended_at or until, until)
        seconds = max(0.0, (ended - began).total_seconds())
        row.node_seconds += seconds
        row.core_seconds += seconds * lease.cpu
        row.gib_seconds += seconds * lease.memory / 2**30
        row.gpu_seconds += seconds * lease.gpu
        row.open += lease.ended_at is None
    return list(usages.values())


def check_change(team: Team, before: Cluster, spec: ClusterSpec) -> None:
    """Raise Refused if the size, backend or address of a cluster changes. A suspended one may change its size."""
    spec_of_team = team.spec
    old = before.spec
    status = before.status
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


def check_deletion(cluster: Cluster, platform: Platform) -> None:
    """Raise Conflict while a service lives on the cluster or a job on it has not ended."""
    team, name = cluster.metadata.team, cluster.metadata.name
    services = services_of(team or "", name, platform)
    if services:
        raise Conflict(
            f"Cluster '{team}/{name}' hosts {_listed('service', services)}.",
            remedy=f"Delete it first: rayplane service delete {services[0]} --team {team}",
        )
    jobs = [job.metadata.name for job in platform.store.each(JOB, team or "", phases=UNFINISHED, cluster=name)]
    if jobs:
        raise Conflict(
            f"Cluster '{team}/{name}' runs {_listed('job', jobs)}.",
            remedy=f"Wait for it, or stop it: rayplane job stop {jobs[0]} --team {team}",
        )


def backend_of(spec: ClusterSpec, team: TeamSpec) -> str:
    """The name of the cluster's backend: its own, else the team's."""
    return spec.backend or team.backend


def _apply_verb(
    verb: operations.Verb,
    team: str,
    name: str,
    change: Callable[[Cluster], Cluster],
    *,
    principal: Principal,
    platform: Platform,
    detail: dict[str, float] | None = None,
) -> tuple[Cluster, Operation]:
    """Make the change of one of a cluster's own verbs, its audit row and its operation, in one transaction."""
    authorize(principal, "write", team)
    store = platform.store
    with store.transaction():
        cluster = platform.cluster(team, name)
        changed = change(cluster)
        if changed.metadata.resource_version != cluster.metadata.resource_version:
            store.audit(principal.name, verb, kind="Cluster", team=team, name=name, detail=detail)
        operation = operations.begin(store, changed, verb)
    platform.wake()
    return changed, operation


def _run_again(cluster: Cluster, platform: Platform) -> Cluster:
    store, uid, status = platform.store, cluster.metadata.uid, cluster.status_copy()
    status.suspension = status.idle_since = None
    changed = store.set_status(uid, status, wanted=True)
    return store.update_spec(uid, {**changed.spec_data, "suspended": False})


def _reader(cluster: Cluster, platform: Platform) -> Reader:
    team = platform.store.get(TEAM, "", cluster.team).spec
    return platform.readers(backend_of(cluster.spec, team))


def _require_suspend(reader: Reader, what: str) -> None:
    if Capability.SUSPEND not in reader.capabilities:
        raise Unsupported(
            f"{what} can't be suspended: its backend '{reader.name}' does not run it.", remedy="Stop it yourself."
        )


def check_acted_on(spec: ClusterSpec, reader: Reader) -> None:
    """Raise InvalidSpec for fields that the backend would ignore: worker nodes, timeouts or a suspension."""
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
                remedy="Leave it out: the cluster's owner stops it.",
            )


def check_address(spec: ClusterSpec, reader: Reader) -> None:
    """Raise InvalidSpec for an address on a backend that creates clusters: the created one would count as external."""
    if spec.address is not None and Capability.CREATE in reader.capabilities:
        raise InvalidSpec(
            f"cluster.address: the backend '{reader.name}' makes its clusters and can't use one that runs already.",
            remedy="Leave it out, or write backend: existing.",
        )


def _demand(cluster: Cluster | None, spec: ClusterSpec, team: TeamSpec) -> Usage:
    """The most that a cluster with this spec can hold; no compute while the platform keeps ``cluster`` suspended."""
    suspended = cluster is not None and cluster.status.suspension is not None
    return nodes.demand(spec, team, suspended=suspended)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _listed(noun: str, names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{noun}{'s' if len(names) > 1 else ''} {shown}"
