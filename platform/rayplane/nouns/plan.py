"""Plan: the changes that applying documents would make, their refusals and their cost. Holds only records."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rayplane.nouns.base import Record


class FieldChange(Record):
    """One field of a document that would have another value."""

    field: str
    """Dotted path, such as ``spec.workers.max``."""
    old: Any = None
    """Current value; None if there is none yet."""
    new: Any = None


class Refusal(Record):
    """One reason for which the gateway would refuse a document."""

    code: str
    """The error's code, such as ``refused`` or ``invalid-spec``."""
    message: str
    remedy: str | None = None


class Cost(Record):
    """The most compute that an object may hold: the amounts, and for how long."""

    cpu: float = 0
    """Cores."""
    memory: float = 0
    """Bytes."""
    gpu: float = 0
    """Devices."""
    hours: float | None = None
    """Longest time; None if nothing ends it by the clock."""


class TotalCost(Record):
    """The most that all documents together may cost."""

    core_hours: float = 0
    gib_hours: float = 0
    gpu_hours: float = 0
    """Resource-hours of the objects that end by the clock."""
    endless: Cost | None = None
    """Compute that is held until a user deletes or suspends it."""


class PlannedDocument(Record):
    """The effect of applying one document."""

    kind: str
    team: str
    """Empty for a team's own document."""
    name: str
    change: Literal["created", "changed", "unchanged", "unknown"]
    """``unknown`` where the user may not even read the object."""
    fields: list[FieldChange] = Field(default_factory=list)
    forbidden: list[Refusal] = Field(default_factory=list)
    """All refusals, not only the first; empty if the document may be applied."""
    warnings: list[str] = Field(default_factory=list)
    cost: Cost | None = None
    """Set for an object that holds compute."""


class Plan(Record):
    """The documents in the order in which they would be applied."""

    documents: list[PlannedDocument] = Field(default_factory=list)
    allowed: bool
    """True if no document is refused."""
    cost: TotalCost = Field(default_factory=TotalCost)
