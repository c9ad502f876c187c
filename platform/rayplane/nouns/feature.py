"""Feature: a team's feature sets in Feast, and the record of a materialization."""

from __future__ import annotations

from pydantic import Field

from rayplane.nouns.base import Instant, Record, Seconds, Spec, Status, utcnow


class FeatureSpec(Spec):
    """A Feast repository and the wanted freshness of its online values."""

    repository: str = "features"
    """Python module of the team's code whose ``build(source_path)`` returns the Feast objects. Recorded only: jobs name
    it themselves."""
    freshness: Seconds | None = None
    """Seconds that online values may be old. Recorded only: the platform starts no materialization by itself."""


class FeatureStatus(Status):
    """The views of the repository and the time of their last materialization. Phase: Ready."""

    views: list[str] = Field(default_factory=list)
    """Feature views that were ever materialized, by name."""
    materialized_at: Instant | None = None
    """Time of the newest materialization; None before the first."""


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
