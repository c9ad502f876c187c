"""No feature of a flight contains a fact that became known less than one hour before its scheduled departure.

The check removes every fact that became known after T - 1 h, computes the features again and compares those of all
flights scheduled at or before T. It must detect a mutant that dates arrival delays to the departure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from features import definitions
from jobs.weather_features import weather_features
from tests.unit.jobs.asof import asof_join
from tests.unit.jobs.flight_tables import features

Make = Callable[[Mapping[str, pa.Table]], dict[str, pa.Table]]
LEAKY: dict[str, Any] = {"known_at": {"dep": "departed_at", "arr": "departed_at"}}


def random_instants(flights: pa.Table, count: int) -> list[datetime]:
    times = sorted(set(flights["scheduled_at"].to_pylist()))
    # Not in the first days, in which there is little to leak.
    return sorted(random.Random(2013).sample(times[len(times) // 10 :], count))


def forget_after(tables: Mapping[str, pa.Table], cutoff: datetime) -> dict[str, pa.Table]:
    """The tables as known at ``cutoff``: with all schedules, but later facts null and later weather removed."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("flights", tables["flights"])
        connection.register("weather", tables["weather"])
        at = f"TIMESTAMPTZ '{cutoff.isoformat()}'"

        def unless_later(instant: str, *names: str) -> str:
            return ", ".join(f"CASE WHEN {instant} <= {at} THEN {name} END AS {name}" for name in names)

        flights = connection.sql(
            f"""SELECT * REPLACE ({unless_later("departed_at", "departed_at", "dep_delay")},
                {unless_later("landed_at", "landed_at", "arr_delay", "air_time", "late", "outcome")}) FROM flights"""
        ).to_arrow_table()
        weather = connection.sql(f"FROM weather WHERE observed_at <= {at}").to_arrow_table()
    return {**tables, "flights": flights, "weather": weather}


def scheduled_by(flights: pa.Table, instant: datetime) -> pa.Table:
    with duckdb.connect() as connection:
        connection.register("flights", flights)
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(
            f"FROM flights WHERE scheduled_at <= TIMESTAMPTZ '{instant.isoformat()}'"
        ).to_arrow_table()


def weather_alone(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    return {"origin_weather": weather_features(tables["weather"])}


def leaking_instants(tables: dict[str, pa.Table], instants: list[datetime], make: Make = features) -> list[datetime]:
    """The instants at which forgetting the future changes a feature, of those that ``make`` makes, of a flight
    scheduled by then."""
    known = asof_join(tables["flights"], make(tables), definitions.TTLS)
    leaking = []
    for instant in instants:
        past = forget_after(tables, instant - timedelta(hours=1))
        flights = scheduled_by(past["flights"], instant)
        again = asof_join(flights, make(past), definitions.TTLS)
        with duckdb.connect() as connection:
            connection.register("known", known)
            connection.register("again", again)
            changed = connection.sql(
                "SELECT count(*) FROM (FROM again EXCEPT SELECT known.* FROM known SEMI JOIN again USING (flight_id))"
            ).fetchall()
        assert again.num_rows > 0
        if changed != [(0,)]:
            leaking.append(instant)
    return leaking


@pytest.mark.timeout(300)
def test_removing_future_facts_changes_no_feature(prepared: dict[str, pa.Table]) -> None:
    assert leaking_instants(prepared, random_instants(prepared["flights"], 20)) == []


def test_an_arrival_delay_dated_to_the_departure_is_detected_as_leakage(prepared: dict[str, pa.Table]) -> None:
    instants = random_instants(prepared["flights"], 20)[::5]
    assert leaking_instants(prepared, instants, partial(features, **LEAKY)) == instants


def test_weather_dated_an_hour_early_is_detected_as_leakage(
    prepared: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    early = prepared["weather"]
    with duckdb.connect() as connection:
        connection.register("weather", early)
        early = connection.sql(
            "SELECT *, observed_at - INTERVAL 1 HOUR AS early_at FROM weather ORDER BY origin, observed_at"
        ).to_arrow_table()
    monkeypatch.setattr("jobs.weather_features.KNOWN_AT", "early_at")
    instants = random_instants(prepared["flights"], 20)[::5]
    # The weather's features alone, for no other table is touched.
    assert leaking_instants({**prepared, "weather": early}, instants, weather_alone)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_removing_future_facts_changes_no_feature_of_the_whole_year(whole_year: dict[str, pa.Table]) -> None:
    assert leaking_instants(whole_year, random_instants(whole_year["flights"], 20)) == []
