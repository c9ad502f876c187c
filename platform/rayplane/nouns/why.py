"""Why: the causes that keep an object from its wanted state, as the API answers them. Holds only records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rayplane.nouns.base import Instant, Record


class Clue(Record):
    """A fact from which the gateway concluded a cause."""

    source: str
    """Origin: event, pod, node, quota, operator, cluster, autoscaler; the platform's own: condition, admission."""
    about: str
    """Subject of the fact, such as ``pod/dev-head``."""
    reason: str
    """One word in the source's own terms, such as ``FailedScheduling``."""
    message: str
    at: Instant | None = None
    count: int = 1
    """Number of times that the source reported it."""


class Cause(Record):
    """One reason why an object is not in its wanted state, and the remedy."""

    code: str
    """Stable name of the cause, such as ``insufficient-cpu``; docs/why.md lists them."""
    sentence: str
    """The cause in one sentence, for people."""
    remedy: str
    """The action that removes the cause."""
    certainty: Literal["certain", "likely"] = "certain"
    """``likely`` if concluded from missing or unspecific evidence."""
    node: Literal["head", "worker"] | None = None
    """Kind of node that the cause affects; None: the whole object."""
    evidence: list[Clue] = Field(default_factory=list)
    """Newest first."""


class Explanation(Record):
    """The answer to ``why``. An object in its wanted state has no causes."""

    kind: str
    team: str | None = None
    name: str
    phase: str
    sentence: str
    """The answer in one sentence: the first cause's, or that nothing is wrong."""
    causes: list[Cause] = Field(default_factory=list)
    """Ranked: the cause to remove first comes first."""
