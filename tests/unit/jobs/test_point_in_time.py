"""Feast's join equals an independent ASOF join row by row; values past their TTL are missing; online equals offline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features import definitions
from jobs import flights_data, training_set
from jobs.flights_data import BadInput
from tests.unit.jobs.asof import asof_join
from tests.unit.jobs.flight_tables import feast_join, feast_store, shuffled


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, feature_tables: dict[str, pa.Table]) -> Any:
    return feast_store(tmp_path_factory.mktemp("feast"), feature_tables)


@pytest.fixture(scope="module")
def joined(store: Any, prepared: dict[str, pa.Table]) -> pa.Table:
    return training_set.training_set(prepared["flights"], feast_join(store))


def assert_same_features(actual: pa.Table, expected: pa.Table) -> None:
    assert actual["flight_id"].equals(expected["flight_id"])
    for name in flights_data.FEATURES:
        if name in flights_data.CALENDAR_FEATURES:
            assert np.allclose(actual[name].to_numpy(), expected[name].to_numpy(), atol=1e-6), name
        elif name in expected.column_names:
            assert actual[name].equals(expected[name].cast(actual[name].type)), name


def test_feasts_join_equals_an_asof_join_for_every_flight(
    prepared: dict[str, pa.Table], feature_tables: dict[str, pa.Table], joined: pa.Table
) -> None:
    assert_same_features(joined, asof_join(prepared["flights"], feature_tables, definitions.TTLS))


@pytest.mark.full
@pytest.mark.timeout(600)
def test_feasts_join_equals_an_asof_join_for_every_flight_of_the_year(
    tmp_path: Path, whole_year: dict[str, pa.Table], whole_year_features: dict[str, pa.Table]
) -> None:
    store = feast_store(tmp_path, whole_year_features)
    table = training_set.training_set(whole_year["flights"], feast_join(store))
    assert table.num_rows == 336_776
    assert_same_features(table, asof_join(whole_year["flights"], whole_year_features, definitions.TTLS))


def test_the_order_of_flights_does_not_matter(store: Any, prepared: dict[str, pa.Table], joined: pa.Table) -> None:
    again = training_set.training_set(shuffled(prepared["flights"]), feast_join(store))
    assert again.equals(joined)


def test_the_training_set_has_every_flight_once_with_schedule_and_label(
    prepared: dict[str, pa.Table], joined: pa.Table
) -> None:
    flights = prepared["flights"]
    for name in ("flight_id", "late", "scheduled_at", "origin", "carrier", "route", "distance"):
        assert joined[name].equals(flights[name]), name
    assert joined["event_timestamp"].equals(flights["predict_at"])
    outcomes = {"dep_delay", "arr_delay", "departed_at", "landed_at", "air_time"}
    assert not outcomes & set(joined.column_names), "the training set contains the outcome"


def test_weather_older_than_its_ttl_is_missing(
    tmp_path: Path, prepared: dict[str, pa.Table], feature_tables: dict[str, pa.Table]
) -> None:
    weather = feature_tables["origin_weather"]
    cut = datetime(2013, 1, 20, 12, tzinfo=UTC)
    store = feast_store(
        tmp_path, feature_tables | {"origin_weather": weather.filter(pc.less_equal(weather["event_timestamp"], cut))}
    )
    flights = prepared["flights"]
    near = flights.filter(pc.equal(pc.strftime(flights["predict_at"], "%Y-%m-%d"), "2013-01-20"))
    rows = training_set.training_set(near, feast_join(store)).select(["event_timestamp", "humid"]).to_pylist()
    within = {row["humid"] is not None for row in rows if cut <= row["event_timestamp"] <= cut + timedelta(hours=3)}
    beyond = {row["humid"] is not None for row in rows if row["event_timestamp"] > cut + timedelta(hours=3)}
    assert (within, beyond) == ({True}, {False})


def test_a_join_that_loses_flights_is_refused(store: Any, prepared: dict[str, pa.Table]) -> None:
    join = feast_join(store)
    with pytest.raises(BadInput, match="Some flight_id occurs more than once"):
        training_set.training_set(prepared["flights"].slice(0, 100), lambda rows: join(rows).slice(0, 99))


def test_flights_without_rows_or_columns_are_refused(prepared: dict[str, pa.Table]) -> None:
    with pytest.raises(BadInput, match=r"lacks the column\(s\) predict_at"):
        training_set.entity_rows(prepared["flights"].drop_columns(["predict_at"]))


def test_online_values_equal_offline_ones(
    tmp_path: Path, prepared: dict[str, pa.Table], feature_tables: dict[str, pa.Table]
) -> None:
    at = datetime(2013, 1, 20, 18, tzinfo=UTC)
    store = feast_store(tmp_path, feature_tables)
    store.materialize(datetime(1999, 1, 1, tzinfo=UTC), at)
    flights = prepared["flights"]
    soon = flights.filter(pc.equal(flights["predict_at"], pa.scalar(at, flights_data.INSTANT)))
    # Feast's online read ignores the TTL and returns the newest values: take flights predicted when materialized.
    rows = training_set.entity_rows(soon)
    offline = training_set.training_set(soon, feast_join(store)).to_pylist()
    keys = ["origin", "carrier", "route", "tailnum", "scheduled_minute", "day_of_year"]
    online = store.get_online_features(
        features=store.get_feature_service(definitions.FEATURE_SERVICE), entity_rows=rows.select(keys).to_pylist()
    ).to_dict()
    assert offline
    compared = 0
    for index, row in enumerate(offline):
        for name in flights_data.FEATURES:
            if name in online and not (name.startswith("plane_") and row[name] is None):
                expected = row[name] if isinstance(row[name], str | None) else pytest.approx(row[name], rel=1e-6)
                assert online[name][index] == expected, name
                compared += 1
    assert compared > 50 * len(offline)
