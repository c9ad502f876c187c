"""A small feature repository over published datasets: two stored views, one on-demand view, one service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64, String
from feast.value_type import ValueType

from rayplane.nouns.job import RunContext
from rayplane.runtime import datasets, features
from rayplane.runtime.features import lookup, project

T0 = datetime(2013, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
INSTANT = pa.timestamp("us", tz="UTC")
TTL = 6 * HOUR


def history(rows: list[tuple[str, float, float | None]]) -> pa.Table:
    """(origin, hours after T0, delay) as the dataset 'delays'."""
    origins, hours, delays = zip(*rows, strict=True)
    return pa.table(
        {
            "origin": pa.array(origins, pa.string()),
            "event_timestamp": pa.array([T0 + h * HOUR for h in hours], INSTANT),
            "delay": pa.array(delays, pa.float32()),
            "count": pa.array(range(len(rows)), pa.int64()),
        }
    )


DELAYS = history([("JFK", 0, 1.0), ("JFK", 2, 2.0), ("JFK", 9, None), ("EWR", 1, 4.0), ("LGA", 8, 5.0)])
PLANES = pa.table(
    {
        "tailnum": ["N1", "N2"],
        "event_timestamp": pa.array([T0 - 9000 * HOUR] * 2, INSTANT),
        "seats": pa.array([100, None], pa.int64()),
        "maker": ["BOEING", "AIRBUS"],
    }
)


def build(source_path: Callable[[str], str]) -> list[Any]:
    """The repository's objects, as a team's module defines them."""
    origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
    plane = Entity(name="plane", join_keys=["tailnum"], value_type=ValueType.STRING)
    delays = FeatureView(
        name="delays",
        entities=[origin],
        ttl=TTL,
        schema=[_field("origin", String), _field("delay", Float32), _field("count", Int64)],
        source=FileSource(name="delays", path=source_path("delays"), timestamp_field="event_timestamp"),
    )
    planes = FeatureView(
        name="planes",
        entities=[plane],
        ttl=timedelta(0),
        schema=[_field("tailnum", String), _field("seats", Int64), _field("maker", String)],
        source=FileSource(name="planes", path=source_path("planes"), timestamp_field="event_timestamp"),
    )
    request = RequestSource(name="request", schema=[Field(name="minutes", dtype=Int64)])

    @on_demand_feature_view(sources=[request, delays], schema=[Field(name="total", dtype=Float64)], mode="pandas")
    def totals(inputs):  # type: ignore[no-untyped-def]
        import pandas as pd

        return pd.DataFrame({"total": inputs["delay"].astype("float64") + inputs["minutes"]})

    service = FeatureService(name="late", features=[delays, planes, totals])
    return [origin, plane, delays, planes, totals, service]


def _field(name: str, dtype: Any) -> Field:
    return Field(name=name, dtype=dtype)


REPOSITORY = ModuleType("repository")
REPOSITORY.build = build  # type: ignore[attr-defined]
SERVICE = "late"


@pytest.fixture
def published(job: RunContext) -> Iterator[RunContext]:
    """Publish and pin the two datasets; drop the test's cached Feast stores afterwards."""
    job.inputs["delays"] = datasets.publish("delays", DELAYS).version
    job.inputs["planes"] = datasets.publish("planes", PLANES).version
    yield job
    project._stores.clear()
    lookup._plans.clear()


@pytest.fixture
def applied(published: RunContext) -> RunContext:
    """Register the repository."""
    features.apply(REPOSITORY)
    return published
