"""Decide how a cluster that is suspended, unused, past its lifetime or deleted gives its compute back. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rayplane.gateway.admission import lifetime
from rayplane.gateway.backends.base import Capability, Observation
from rayplane.gateway.reconcile.cluster_look import (
    AT_REST,
    FOR_ROOM,
    GONE,
    HURRY,
    Change,
    ClusterLook,
    Decision,
    Idleness,
    Report,
)
from rayplane.gateway.reconcile.idleness import Activity, Verdict
from rayplane.nouns.cluster import Suspension

DRAIN = timedelta(seconds=15)
"""Time that the jobs of a cluster being taken down have to stop."""
_FOR_ITS_WORK = 60.0
"""Seconds between two looks at a cluster whose deletion waits for work on it to end."""

DELETING = Change("Deleting", reports=(Report("Ready", False, "Deleting", "The cluster is being taken down."),))


@dataclass(frozen=True)
class Load:
    """The load of a cluster that the platform keeps suspended."""

    work: str = ""
    """A job or a service on it; empty if it has neither."""
    lacking: str = ""
    """The reason why this work can't resume it now."""
    jobs_left: int = 0
    """Jobs that were asked to stop and have not ended."""


def release(look: ClusterLook, observation: Observation, reason: str, message: str) -> Decision:
    """Release the cluster's nodes, and leave it at rest once it has none."""
    if not look.can(Capability.SUSPEND):
        lacking = f"The backend '{look.backend}' can't suspend a cluster."
        return Decision(after=Change(reports=(Report("Ready", False, "Unsupported", lacking),)))
    if is_down(look, observation):
        down = Change("Suspended", head=GONE, reports=(Report("Ready", False, reason, message),))
        return Decision(starts="forget", after=down)
    going = Report("Ready", False, reason, f"It is being suspended. {message}")
    is_asked = observation.phase in ("absent", "suspended", "stopping") and not observation.reason
    return Decision(
        ask="nothing" if is_asked else "suspend",
        after=Change("Suspending", head=GONE, reports=(going,)),
        again=look.wait(HURRY),
    )


def is_down(look: ClusterLook, observation: Observation) -> bool:
    """True once a suspended cluster holds no compute."""
    return (
        look.can(Capability.SUSPEND)
        and observation.phase in ("absent", "suspended")
        and all(node.ended_at is not None for node in observation.nodes)
    )


def hold(look: ClusterLook, suspension: Suspension, observation: Observation, load: Load, now: datetime) -> Decision:
    """Keep a cluster suspended that the platform suspended, and have it deleted once that is due."""
    if suspension.reason == "Idle" and load.work:
        message = f"It is needed by {load.work}, but: {load.lacking}"
        return replace(release(look, observation, "Quota", message), again=FOR_ROOM)
    if suspension.reason == "Lifetime" and load.jobs_left and now - suspension.at < DRAIN:
        return Decision(again=HURRY)
    message, delete_at = suspension.message, suspension.delete_at
    if suspension.reason == "Idle" and delete_at is not None:
        message += f" It is deleted {lifetime.moment(delete_at)}."
    if suspension.reason == "Lifetime" and load.work:
        message += f" It is not deleted while {load.work} is on it."
    decision = release(look, observation, suspension.reason, message)
    if delete_at is None or not is_down(look, observation):
        return decision
    if now < delete_at:
        return replace(decision, again=max(HURRY, min(AT_REST, (delete_at - now).total_seconds())))
    if load.work:
        return replace(decision, again=_FOR_ITS_WORK)
    return replace(decision, then=("delete",))


def deletion_of(look: ClusterLook, suspension: Suspension, kept_until: datetime | None) -> datetime | None:
    """The instant at which a cluster that the platform suspended is deleted; None: it stays."""
    if suspension.reason == "Lifetime":
        return suspension.at
    return lifetime.deletion(look.terms, suspension.at, kept_until)


def remove(look: ClusterLook, observation: Observation) -> Decision:
    """Delete the compute of a deleted cluster, then remove its object."""
    if observation.phase != "absent" or any(node.ended_at is None for node in observation.nodes):
        return Decision(ask="delete", again=look.wait(HURRY))
    return Decision(starts="forget", repairs="forget", then=("remove",))


def report_use(look: ClusterLook, verdict: Verdict, activity: Activity | None) -> Change:
    """Report a running cluster's idleness and its expiry; a condition that was never true is not added."""
    keep = f"Keep it: rayplane cluster extend {look.ref.name} 2h --team {look.ref.team}"
    reports = []
    if verdict.idle_since is not None:
        since, until = _moment(verdict.idle_since), _moment(verdict.idle_until)
        reports.append(Report("Idle", True, "Unused", f"Unused since {since}; it is suspended {until}. {keep}"))
    elif activity is not None and activity.state == "unknown":
        reports.append(Report("Idle", False, "Unknown", f"Its use is unknown: {activity.why}"))
    elif activity is not None:
        reports.append(Report("Idle", False, "InUse", only_known=True))
    if verdict.expiring:
        ends = f"Its lifetime ends {_moment(verdict.ends_at)}; it is suspended and deleted then. {keep}"
        reports.append(Report("Expiring", True, "Lifetime", ends))
    else:
        reports.append(Report("Expiring", False, "Lifetime", only_known=True))
    return Change(idleness=Idleness(verdict.idle_since), reports=tuple(reports))


def _moment(instant: datetime | None) -> str:
    return "" if instant is None else lifetime.moment(instant)
