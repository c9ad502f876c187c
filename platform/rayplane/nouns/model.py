"""Model: a registered model, its gate, and the report of the gate's checks."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from rayplane.nouns.base import Instant, Number, Record, Spec, Status, utcnow


class Threshold(Spec):
    """A metric's least or greatest allowed value."""

    min: Number | None = None
    """Least value; None: no bound."""
    max: Number | None = None
    """Greatest value; None: no bound."""


class Gate(Spec):
    """Bounds that a version's metrics must keep before it gets the alias."""

    metrics: dict[str, Threshold] = Field(default_factory=dict)
    """Metric -> its bounds."""


class ModelSpec(Spec):
    """A registered model."""

    description: str = ""
    """Text for people."""
    gate: Gate = Field(default_factory=Gate)
    """Bounds of a version. Recorded only: the job that evaluates judges by the bounds that it is given."""


class ModelStatus(Status):
    """The newest version, and the version that each alias points to. Phase: Ready."""

    latest: str | None = None
    """Newest version that a job registered."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Alias -> version, as jobs reported when they registered; MLflow knows of later moves."""


class Check(Record):
    """One check of the gate: the metric's value, its bound, and the verdict."""

    metric: str
    value: float | None
    bound: str
    passed: bool


class GateReport(Record):
    """The gate's verdict on a run's model, with its checks and all figures of the evaluation."""

    run_id: str
    passed: bool
    checks: list[Check]
    figures: dict[str, Any] = Field(default_factory=dict)
    created_at: Instant = Field(default_factory=utcnow)


class ModelVersion(Record):
    """A registered version of a model, with the run that made it."""

    name: str
    version: str
    run_id: str
    aliases: list[str] = Field(default_factory=list)
