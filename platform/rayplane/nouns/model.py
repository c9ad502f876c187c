"""Model: a registered model, its gate and the evidence."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from rayplane.nouns.base import Instant, Record, Spec, Status, utcnow


class Threshold(Spec):
    """A metric's least or greatest allowed value."""

    min: float | None = None
    max: float | None = None


class Gate(Spec):
    """What a version must show before it gets the alias."""

    metrics: dict[str, Threshold] = Field(default_factory=dict)


class ModelSpec(Spec):
    """A registered model."""

    description: str = ""
    gate: Gate = Field(default_factory=Gate)


class ModelStatus(Status):
    """Newest version and where the aliases point."""

    latest: str | None = None
    aliases: dict[str, str] = Field(default_factory=dict)


class Check(Record):
    """One check of the gate: the value, the bound and whether it passed."""

    metric: str
    value: float | None
    bound: str
    passed: bool


class GateReport(Record):
    """Whether a version passed, and the figures it was judged by."""

    run_id: str
    passed: bool
    checks: list[Check]
    figures: dict[str, Any] = Field(default_factory=dict)
    created_at: Instant = Field(default_factory=utcnow)


class ModelVersion(Record):
    """A registered version."""

    name: str
    version: str
    run_id: str
    aliases: list[str] = Field(default_factory=list)
