"""Why: what an object that is not as wanted is held up by, as the API answers it. Records alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rayplane.nouns.base import Instant, Record


class Clue(Record):
    """A fact that a cause was concluded from."""

    source: str
    """Who said it: event, pod, node, quota, operator, cluster, autoscaler; condition or admission for the platform."""
    about: str
    """What it is said of, such as ``pod/dev-head``."""
    reason: str
    """One word in the source's own terms, such as ``FailedScheduling``."""
    message: str
    at: Instant | None = None
    count: int = 1
    """How often it was said."""


class Cause(Record):
    """One reason why an object is not as wanted, and what to do about it."""

    code: str
    """Stable name of the cause, such as ``insufficient-cpu``; docs/why.md lists them."""
    sentence: str
    """What holds it up, for people."""
    remedy: str
    """What to do."""
    certainty: Literal["certain", "likely"] = "certain"
    """``likely`` where it is concluded from silence or from something general."""
    node: Literal["head", "worker"] | None = None
    """The kind of node that it is about; None: the whole object."""
    evidence: list[Clue] = Field(default_factory=list)
    """Newest first."""


class Explanation(Record):
    """The answer to ``why``. An object that is as wanted has no causes."""

    kind: str
    team: str | None = None
    name: str
    phase: str
    sentence: str
    """The answer in one sentence: the first cause's, or that all is well."""
    causes: list[Cause] = Field(default_factory=list)
    """The one that must go first comes first."""
