"""Deadlines of a cluster (idle timeout, deletion, maximum lifetime): its own, its team's, and their extension. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rayplane.errors import Refused
from rayplane.nouns.base import LONGEST
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.team import TeamSpec

_TERMS = ("idle_timeout", "delete_after_idle", "max_lifetime")


@dataclass(frozen=True)
class Terms:
    """The timeouts of one cluster; None: never."""

    idle_timeout: timedelta | None = None
    delete_after_idle: timedelta | None = None
    max_lifetime: timedelta | None = None

    @property
    def any(self) -> bool:
        """True if the platform ever suspends or ends the cluster by itself."""
        return self.idle_timeout is not None or self.max_lifetime is not None


def terms_of(spec: ClusterSpec, team: TeamSpec) -> Terms:
    """The cluster's own timeouts, else its team's; never above the team's, which an admin may have lowered since."""
    terms = {}
    for term in _TERMS:
        own, most = getattr(spec, term), getattr(team, term)
        chosen = own if most is None else most if own is None else min(own, most)
        # A stored timeout may be older than the limit of durations, and too long for a date.
        terms[term] = None if chosen is None else timedelta(seconds=min(chosen, LONGEST))
    return Terms(**terms)


def require(spec: ClusterSpec, team: TeamSpec, *, what: str, before: ClusterSpec | None = None) -> None:
    """Raise Refused if the spec asks for more than the team's admin allows; an unchanged value of ``before`` passes."""
    for term in _TERMS:
        asked, most = getattr(spec, term), getattr(team, term)
        if asked is None or most is None or asked <= most or (before is not None and getattr(before, term) == asked):
            continue
        raise Refused(
            f"cluster.{term}: {what} asks for {duration(asked)}, its team allows {duration(most)}.",
            remedy=f"Say {duration(most)} or less, or ask an admin to raise the team's {term}.",
        )


@dataclass(frozen=True)
class Extension:
    """New deadlines of a cluster: of idleness and of its lifetime; None if it has no such deadline."""

    kept_until: datetime | None
    lives_until: datetime | None


def extend(
    terms: Terms, team: TeamSpec, seconds: float, *, created_at: datetime, now: datetime, what: str
) -> Extension:
    """The deadlines after an extension by ``seconds`` from ``now``.

    Raises Refused if the cluster has no deadline, or beyond what the team's admin allows.
    """
    if not terms.any:
        raise Refused(
            f"{what} has neither an idle timeout nor a maximum lifetime: there is nothing to extend.",
            remedy="It runs until a user suspends or deletes it.",
        )
    if seconds > team.max_extension:
        raise Refused(
            f"{what} can't be extended by {duration(seconds)}: its team allows {duration(team.max_extension)} at once.",
            remedy=f"Ask for {duration(team.max_extension)} or less.",
        )
    until = now + timedelta(seconds=seconds)
    latest = None
    if team.max_lifetime is not None:
        latest = created_at + timedelta(seconds=min(team.max_lifetime + team.max_extension, LONGEST))
    if terms.max_lifetime is not None and latest is not None and until > latest:
        raise Refused(
            f"{what} can't live until {_instant(until)}: its team allows {duration(team.max_lifetime or 0)} and "
            f"{duration(team.max_extension)} of extension, which end {_instant(latest)}.",
            remedy="Save what it holds, then make a new cluster; or ask an admin to raise the team's max_lifetime.",
        )
    return Extension(
        kept_until=until if terms.idle_timeout is not None else None,
        lives_until=until if terms.max_lifetime is not None else None,
    )


def end_of_life(terms: Terms, created_at: datetime | None, lives_until: datetime | None) -> datetime | None:
    """The end of the cluster's lifetime: ``max_lifetime`` after its creation, or later if extended.

    None: never, or not known yet, as the cluster is not stored.
    """
    if terms.max_lifetime is None or created_at is None:
        return None
    end = created_at + terms.max_lifetime
    return end if lives_until is None else max(end, lives_until)


def deletion(terms: Terms, suspended_at: datetime, kept_until: datetime | None) -> datetime | None:
    """The instant at which a cluster suspended for idleness is deleted, by its current terms; None: it stays."""
    if terms.idle_timeout is None or terms.delete_after_idle is None:
        return None
    at = suspended_at + terms.delete_after_idle
    return at if kept_until is None else max(at, kept_until)


def ended(at: datetime) -> str:
    """A sentence that tells the end of a cluster's lifetime."""
    return f"Its lifetime ended {moment(at)}."


def moment(at: datetime) -> str:
    """An instant of UTC, to the second, for messages."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """A duration as specs write it: 1h30m, 45s."""
    rest, parts = round(seconds), []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or f"{seconds:g}s"


def _instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")
