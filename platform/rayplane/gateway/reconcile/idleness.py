"""Decide from a running cluster's use whether to keep it, warn or suspend it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from rayplane.gateway.admission.lifetime import Terms, end_of_life, ended, moment

LEAST_BETWEEN, MOST_BETWEEN = timedelta(seconds=15), timedelta(seconds=60)
"""Bounds of the time between two questions to Ray about a cluster's use."""
_LONGEST_WARNING = timedelta(hours=1)
_WARNING_SHARE = 0.1


@dataclass(frozen=True)
class Activity:
    """A cluster's use at one instant."""

    state: Literal["active", "idle", "unknown"]
    why: str = ""
    """The use of it, or the reason why its use is unknown."""
    last: datetime | None = None
    """The end of its last use, where it is known."""


@dataclass(frozen=True)
class Verdict:
    """The decision about a running cluster."""

    act: Literal["keep", "suspend"]
    reason: Literal["", "Idle", "Lifetime"] = ""
    message: str = ""
    idle_since: datetime | None = None
    idle_until: datetime | None = None
    """The instant at which it is suspended if it stays unused; None while it is in use."""
    ends_at: datetime | None = None
    """The end of its lifetime."""
    expiring: bool = False
    """True if that end is near enough for a warning."""
    again: timedelta | None = None
    """Time until the next judgement; None: at the next write."""


def period(idle_timeout: timedelta) -> timedelta:
    """Time between two questions to Ray about a cluster's use."""
    return min(MOST_BETWEEN, max(LEAST_BETWEEN, idle_timeout / 20))


def from_ray(components: Mapping[str, Any], applications: Mapping[str, Any]) -> Activity:
    """Read the use from Ray: drivers (Ray clients have one too), components of its activity hook, Serve applications.

    ``components`` is the answer of ``/api/component_activities``: name -> ``{is_active: ACTIVE | INACTIVE | ERROR,
    reason, last_activity_at: seconds since the epoch or null}``. Only INACTIVE counts as idle.
    """
    states = {name: info if isinstance(info, Mapping) else {} for name, info in components.items()}
    for name, info in states.items():
        if info.get("is_active") == "ACTIVE":
            return Activity("active", f"Ray's {name}: {info.get('reason') or 'active'}")
    if applications:
        return Activity("active", f"Serve application '{min(applications)}'")
    for name, info in states.items():
        if info.get("is_active") != "INACTIVE":
            return Activity("unknown", f"Ray can't report its {name}: {info.get('reason') or info.get('is_active')}")
    if "driver" not in states:
        return Activity("unknown", "Ray does not report its drivers")
    ended = [float(info["last_activity_at"]) for info in states.values() if info.get("last_activity_at")]
    return Activity("idle", last=datetime.fromtimestamp(max(ended), UTC) if ended else None)


def judge(
    terms: Terms,
    activity: Activity | None,
    *,
    now: datetime,
    created_at: datetime,
    idle_since: datetime | None,
    kept_until: datetime | None,
    lives_until: datetime | None,
) -> Verdict:
    """Decide about a running cluster. ``activity`` None: Ray was not asked, as its answer would change nothing."""
    end = end_of_life(terms, created_at, lives_until)
    if end is not None and now >= end:
        return Verdict("suspend", "Lifetime", ended(end), ends_at=end)
    expiring, again = False, None
    if end is not None and terms.max_lifetime is not None:
        warn_at = end - min(_LONGEST_WARNING, terms.max_lifetime * _WARNING_SHARE)
        expiring = now >= warn_at
        again = (end if expiring else warn_at) - now
    since, deadline = _idle(terms, activity, now, idle_since, kept_until)
    if since is not None and deadline is not None and now >= deadline:
        message = f"Unused since {moment(since)}."
        return Verdict("suspend", "Idle", message, idle_since=since, idle_until=deadline, ends_at=end)
    if terms.idle_timeout is not None:
        pause = period(terms.idle_timeout)
        pause = pause if deadline is None else min(pause, deadline - now)
        again = pause if again is None else min(again, pause)
    return Verdict("keep", idle_since=since, idle_until=deadline, ends_at=end, expiring=expiring, again=again)


def _idle(
    terms: Terms,
    activity: Activity | None,
    now: datetime,
    idle_since: datetime | None,
    kept_until: datetime | None,
) -> tuple[datetime | None, datetime | None]:
    """(start of the idleness, end of the idle timeout); a cluster whose use is unknown is never idle."""
    if terms.idle_timeout is None or (activity is not None and activity.state != "idle"):
        return None, None
    if activity is None:
        since = idle_since
    else:
        since = idle_since or now
        if activity.last is not None:  # work came and went between two questions; the head's clock may be ahead
            since = max(since, min(activity.last, now))
    if since is None:
        return None, None
    deadline = since + terms.idle_timeout
    return since, deadline if kept_until is None else max(deadline, kept_until)
