"""Dataset: named data with immutable versions."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from rayplane.nouns.base import Instant, Record, Seconds, Spec, Status, utcnow


class DatasetSpec(Spec):
    """Optional facts about a dataset, which itself comes into being with its first version."""

    description: str = ""
    """Text for people."""
    retention: Seconds | None = None
    """Seconds for which versions are worth keeping. Recorded only: the platform deletes no version by itself."""


class DatasetStatus(Status):
    """The newest version by time of publication, and the number of versions. Phase: Ready."""

    latest: str | None = None
    """Newest version by time of publication; None before the first."""
    rows: int | None = None
    """Number of rows of that version."""
    versions: int = 0
    """Number of versions."""


class Column(Record):
    """One column: its name and Arrow type."""

    name: str
    type: str


class DatasetRef(Record):
    """A dataset at a version."""

    name: str
    version: str


class DatasetVersion(Record):
    """An immutable version. ``version`` is the first 16 hex digits of ``content_hash``."""

    team: str
    name: str
    version: str
    content_hash: str
    """SHA-256 (hex) over schema, row count and canonically ordered rows; not over Parquet bytes."""
    uri: str
    rows: int
    bytes: int
    columns: list[Column]
    statistics: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Column -> {nulls, min, max, mean, distinct}: those that apply to its type."""
    inputs: list[DatasetRef] = Field(default_factory=list)
    job: str | None = None
    created_at: Instant = Field(default_factory=utcnow)
