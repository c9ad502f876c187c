"""Feature: a team's feature sets in Feast, and the record of a materialization."""

from __future__ import annotations

from pydantic import Field

from rayplane.nouns.base import Instant, Record, Seconds, Spec, Status, utcnow


class FeatureSpec(Spec):
    """A Feast repository and the wanted freshness of its online values."""

    repository: str = "features"
    """Python module, inside the code package, whose ``build(source_path)`` returns the Feast objects."""
    freshness: Seconds | None = None


class FeatureStatus(Status):
    """The views of the repository and the time of their last materialization."""

    views: list[str] = Field(default_factory=list)
    materialized_at: Instant | None = None


class FeatureViewVersion(Record):
    """A feature view, fed by one dataset version."""

    view: str
    dataset: str
    version: str


class Materialization(Record):
    """The views and rows that one materialization wrote to the online store."""

    views: list[FeatureViewVersion]
    start: Instant | None = None
    end: Instant
    rows: dict[str, int] = Field(default_factory=dict)
    created_at: Instant = Field(default_factory=utcnow)
