"""Plan: what documents would change if they were applied, what forbids it, what it may cost. Records alone."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rayplane.nouns.base import Record


class FieldChange(Record):
    """One field of a document that would have another value."""

    field: str
    """Dotted path, such as ``spec.workers.max``."""
    old: Any = None
    """None where there is none yet."""
    new: Any = None


class Refusal(Record):
    """One reason that forbids a document."""

    code: str
    """The error's code, such as ``refused`` or ``invalid-spec``."""
    message: str
    remedy: str | None = None


class Cost(Record):
    """The most compute that may be held: amounts while it is held, and for how long."""

    cpu: float = 0
    """Cores."""
    memory: float = 0
    """Bytes."""
    gpu: float = 0
    """Devices."""
    hours: float | None = None
    """How long at most; None where nothing ends it by the clock."""


class TotalCost(Record):
    """The most that all documents together may cost."""

    core_hours: float = 0
    gib_hours: float = 0
    gpu_hours: float = 0
    """Of what has an end, in resource-hours."""
    endless: Cost | None = None
    """What is held for as long as nobody ends it."""


class PlannedDocument(Record):
    """What one document would do."""

    kind: str
    team: str
    """Empty for a team's own document."""
    name: str
    change: Literal["created", "changed", "unchanged", "unknown"]
    """``unknown`` where the asker may not even read."""
    fields: list[FieldChange] = Field(default_factory=list)
    forbidden: list[Refusal] = Field(default_factory=list)
    """All reasons, not the first alone; empty where it may be applied."""
    warnings: list[str] = Field(default_factory=list)
    cost: Cost | None = None
    """Of a document that holds compute."""


class Plan(Record):
    """The documents in the order in which they would be applied."""

    documents: list[PlannedDocument] = Field(default_factory=list)
    allowed: bool
    """Whether nothing forbids any of them."""
    cost: TotalCost = Field(default_factory=TotalCost)
