"""An object that is to be written, and a check of it: what the rule book is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from rayplane.errors import Refused
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.nouns.base import NounType, Object
from rayplane.nouns.team import TeamSpec


@dataclass(frozen=True)
class Draft:
    """An object as it is wanted, and all that its checks need to know beside it."""

    noun: NounType
    name: str
    """Empty for a job whose name is not chosen yet."""
    spec: Any
    owner: Object | None
    """The team; None for a team."""
    before: Object | None
    """The object as it is, if it is there."""
    principal: Principal
    platform: Platform
    ask: bool = True
    """Whether its backend is asked, which is for those who may write the object alone."""
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
        return team_spec(self.owner)

    @property
    def title(self) -> str:
        """The words by which messages call it."""
        return f"{self.noun.kind} '{self.team}/{self.name}'" if self.team else f"{self.noun.kind} '{self.name}'"

    def spec_before(self) -> BaseModel | None:
        """The spec as it is, if the object is there."""
        return None if self.before is None else self.noun.spec.model_validate(self.before.spec)


@dataclass(frozen=True)
class Check:
    """One thing that a draft must meet: ``act`` raises the RayplaneError that says why it does not."""

    name: str
    """A word for it, by which ``why`` knows it."""
    act: Callable[[], object]


def enforce(checks: Iterable[Check]) -> None:
    """Raise what the first check raises that refuses."""
    for check in checks:
        check.act()


def preflight(draft: Draft, title: str, ask: Callable[[], list[str]]) -> None:
    """Ask a backend whether it can give what is wanted. Not to be called in a transaction: it may take a while.

    Raises Refused with the backend's ``reasons``, Unavailable if it was not asked: too much is asked at once, or the
    time for it is over.
    """
    reasons = draft.platform.preflights.make(ask, until=draft.until)
    if reasons:
        raise Refused(f"{title}: {' '.join(reasons)}", reasons=reasons)
