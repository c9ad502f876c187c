"""Drafts (objects that are to be written) and checks of them: the parts of the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayplane.errors import Refused
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.store.typed import AnyObject, Team
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.noun_type import AnyNoun
from rayplane.nouns.team import TeamSpec


@dataclass(frozen=True)
class Draft:
    """An object that is to be written, and everything else that its checks need."""

    noun: AnyNoun
    name: str
    """For a job without a name of its own: the stem of the name that it will get."""
    spec: Any
    owner: Team | None
    """The team; None for a team."""
    before: AnyObject | None
    """The stored object; None if the draft is a new one."""
    principal: Principal
    platform: Platform
    labels: Mapping[str, str] = field(default_factory=dict)
    ask: bool = True
    """True if its backend may be asked: only for principals that may write the object."""
    until: float = float("inf")
    """Instant of the monotonic clock after which no backend is asked any more."""

    @property
    def team(self) -> str:
        """The team's name; empty for a team."""
        return "" if self.owner is None else self.owner.metadata.name

    @property
    def of_team(self) -> TeamSpec:
        """The team's spec."""
        assert self.owner is not None, "a team has no team"
        return self.owner.spec


@dataclass(frozen=True)
class Check:
    """One check of a draft: ``act`` raises a RayplaneError if the draft does not pass."""

    name: str
    """Identifies the check to ``why``."""
    act: Callable[[], object]


def enforce(checks: Iterable[Check]) -> None:
    """Run the checks in order; raises the error of the first one that fails."""
    for check in checks:
        check.act()


def preflight(draft: Draft, title: str, ask: Callable[[], list[str]]) -> None:
    """Ask a backend whether it can provide the draft's compute. Do not call it in a transaction: it may be slow.

    Raises Refused with the backend's ``reasons``; Unavailable if it was not asked, because too many pre-flights are
    under way or the time is over.
    """
    reasons = draft.platform.preflights.make(ask, until=draft.until)
    if reasons:
        raise Refused(f"{title}: {' '.join(reasons)}", reasons=reasons)
