"""When a cluster is given back: what it may say, what its team's admin set, how far it may be put off. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rayplane.errors import Refused
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.team import TeamSpec

_TERMS = ("idle_timeout", "delete_after_idle", "max_lifetime")


@dataclass(frozen=True)
class Terms:
    """What holds for one cluster; None: never."""

    idle_timeout: timedelta | None = None
    delete_after_idle: timedelta | None = None
    max_lifetime: timedelta | None = None

    @property
    def any(self) -> bool:
        """Whether it is ever given back by the clock."""
        return self.idle_timeout is not None or self.max_lifetime is not None


def terms_of(spec: ClusterSpec, team: TeamSpec) -> Terms:
    """What the cluster says, else its team; never more than the team's, which an admin may have lowered since."""
    found = {}
    for term in _TERMS:
        said, most = getattr(spec, term), getattr(team, term)
        chosen = said if most is None else most if said is None else min(said, most)
        found[term] = None if chosen is None else timedelta(seconds=chosen)
    return Terms(**found)


def require(spec: ClusterSpec, team: TeamSpec, *, what: str, before: ClusterSpec | None = None) -> None:
    """Raise Refused if the cluster says more than its team's admin allows; what it said ``before`` is no reason."""
    for term in _TERMS:
        said, most = getattr(spec, term), getattr(team, term)
        if said is None or most is None or said <= most or (before is not None and getattr(before, term) == said):
            continue
        raise Refused(
            f"cluster.{term}: {what} asks for {duration(said)}, its team allows {duration(most)}.",
            remedy=f"Say {duration(most)} or less, or ask an admin to raise the team's {term}.",
        )


@dataclass(frozen=True)
class Extension:
    """Until when a cluster is kept, as asked; None where it does not end so."""

    kept_until: datetime | None
    lives_until: datetime | None


def extend(
    terms: Terms, team: TeamSpec, seconds: float, *, created_at: datetime, now: datetime, what: str
) -> Extension:
    """What `extend` by ``seconds`` from ``now`` puts off. Raises Refused beyond what the team's admin allows."""
    if not terms.any:
        raise Refused(
            f"{what} has neither an idle timeout nor a maximum lifetime: there is nothing to extend.",
            remedy="It runs until somebody suspends or deletes it.",
        )
    if seconds > team.max_extension:
        raise Refused(
            f"{what} can't be extended by {duration(seconds)}: its team allows {duration(team.max_extension)} at once.",
            remedy=f"Ask for {duration(team.max_extension)} or less.",
        )
    until = now + timedelta(seconds=seconds)
    latest = None
    if team.max_lifetime is not None:
        latest = created_at + timedelta(seconds=team.max_lifetime + team.max_extension)
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


def end_of_life(terms: Terms, created_at: datetime, lives_until: datetime | None) -> datetime | None:
    """When the cluster's time is over: its lifetime after it was made, or as far as that was extended."""
    if terms.max_lifetime is None:
        return None
    end = created_at + terms.max_lifetime
    return end if lives_until is None else max(end, lives_until)


def deletion(terms: Terms, suspended_at: datetime, kept_until: datetime | None) -> datetime | None:
    """When a cluster that was suspended for idleness is deleted, by the terms that hold now; None: it stays."""
    if terms.idle_timeout is None or terms.delete_after_idle is None:
        return None
    at = suspended_at + terms.delete_after_idle
    return at if kept_until is None else max(at, kept_until)


def ended(at: datetime) -> str:
    """That a cluster's lifetime is over, as one says it."""
    return f"Its lifetime ended {moment(at)}."


def moment(at: datetime) -> str:
    """An instant of UTC to the second, as one says it."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """A time as one writes it in a spec: 1h30m, 45s."""
    rest, parts = round(seconds), []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or f"{seconds:g}s"


def _instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")
