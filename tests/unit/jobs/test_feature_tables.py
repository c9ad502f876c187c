"""Feature tables: each value equals that of a plain loop over the facts known by then; unique by entity and instant."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs import delay_features, flights_data, plane_features, weather_features
from jobs.flights_data import WINDOWS, BadInput
from tests.unit.jobs.flight_tables import features, shuffled

HOUR = timedelta(hours=1)


def known_facts(flights: pa.Table, key: str, entity: Any) -> list[tuple[str, datetime, int]]:
    facts = []
    for row in flights.select([key, "departed_at", "landed_at", "dep_delay", "arr_delay"]).to_pylist():
        if row[key] == entity:
            facts += [("dep", row["departed_at"], row["dep_delay"]), ("arr", row["landed_at"], row["arr_delay"])]
    return [fact for fact in facts if fact[1] is not None]


def expected(facts: list[tuple[str, datetime, int]], at: datetime, kind: str, minutes: int) -> tuple[int, Any, Any]:
    delays = [d for k, known, d in facts if k == kind and at - timedelta(minutes=minutes) < known <= at]
    if not delays:
        return 0, None, None
    late = sum(delay > flights_data.LATE_MINUTES for delay in delays)
    return len(delays), pytest.approx(sum(delays) / len(delays)), pytest.approx(late / len(delays))


@pytest.mark.parametrize("entity", ["origin", "carrier", "route"])
def test_snapshots_equal_the_counts_of_a_plain_loop(
    prepared: dict[str, pa.Table], feature_tables: dict[str, pa.Table], entity: str
) -> None:
    key = delay_features.KEYS[entity]
    table = feature_tables[f"{entity}_delays"]
    for index in random.Random(1).sample(range(table.num_rows), 12):
        row = table.slice(index, 1).to_pylist()[0]
        facts = known_facts(prepared["flights"], key, row[key])
        for window, minutes in WINDOWS.items():
            for kind, plural in (("dep", "departures"), ("arr", "arrivals")):
                values = tuple(row[f"{entity}_{name}_{window}"] for name in (plural, f"{kind}_delay", f"{kind}_late"))
                assert values == expected(facts, row["event_timestamp"], kind, minutes), (row[key], window, kind)


def test_plane_snapshots_equal_the_counts_of_a_plain_loop(
    prepared: dict[str, pa.Table], feature_tables: dict[str, pa.Table]
) -> None:
    table = feature_tables["plane_delays"]
    for index in random.Random(2).sample(range(table.num_rows), 12):
        row = table.slice(index, 1).to_pylist()[0]
        at = row["event_timestamp"]
        facts = known_facts(prepared["flights"], "tailnum", row["tailnum"])
        for kind, plural in (("dep", "departures"), ("arr", "arrivals")):
            past = [(known, delay) for k, known, delay in facts if k == kind and known <= at]
            assert row[f"plane_last_{kind}_delay"] == (max(past)[1] if past else None)
            for window in ("24h", "14d"):
                # Windows of planes are closed at both ends, hence one minute longer.
                values = tuple(row[f"plane_{name}_{window}"] for name in (plural, f"{kind}_delay", f"{kind}_late"))
                assert values == expected(facts, at, kind, WINDOWS[window] + 1)


def test_a_route_has_a_snapshot_every_hour_until_its_windows_are_empty(
    prepared: dict[str, pa.Table], feature_tables: dict[str, pa.Table]
) -> None:
    table = feature_tables["route_delays"]
    times = table.filter(pc.equal(table["route"], "EWR-HNL"))["event_timestamp"].to_pylist()
    facts = known_facts(prepared["flights"], "route", "EWR-HNL")
    assert all(later - earlier == HOUR for earlier, later in pairwise(times))
    assert times[0] - HOUR < min(known for _, known, _ in facts) <= times[0]
    assert times[-1] < max(known for _, known, _ in facts) + timedelta(days=14) <= times[-1] + HOUR


def test_no_table_has_two_rows_of_an_entity_at_an_instant(feature_tables: dict[str, pa.Table]) -> None:
    for view, table in feature_tables.items():
        assert table.group_by(table.column_names[:2]).aggregate([]).num_rows == table.num_rows, view


def test_every_instant_is_in_microseconds_of_utc(feature_tables: dict[str, pa.Table]) -> None:
    assert {table.schema.field("event_timestamp").type for table in feature_tables.values()} == {flights_data.INSTANT}


def test_the_same_rows_in_any_order_give_the_same_features(
    prepared: dict[str, pa.Table], feature_tables: dict[str, pa.Table]
) -> None:
    again = features({name: shuffled(table) for name, table in prepared.items()})
    for view, table in feature_tables.items():
        assert again[view].equals(table), view


def test_two_facts_of_a_plane_at_one_instant_become_one_row() -> None:
    at = datetime(2013, 1, 5, 12, tzinfo=UTC)
    flights = pa.table(
        {
            "tailnum": ["N1", "N1"],
            "departed_at": pa.array([at, at], flights_data.INSTANT),
            "landed_at": pa.array([None, at + 2 * HOUR], flights_data.INSTANT),
            "dep_delay": pa.array([10, 30], pa.int32()),
            "arr_delay": pa.array([None, 20], pa.int32()),
        }
    )
    table = delay_features.delay_features(flights, "plane")
    assert table["event_timestamp"].to_pylist() == [at, at + 2 * HOUR]
    assert table["plane_departures_24h"].to_pylist() == [2, 2]
    assert table["plane_dep_delay_24h"].to_pylist() == [20, 20]
    assert table["plane_last_dep_delay"].to_pylist() == [30, 30]
    assert table["plane_last_arr_delay"].to_pylist() == [None, 20]


def test_cancelled_flights_and_flights_without_a_tail_number_do_not_count(prepared: dict[str, pa.Table]) -> None:
    flights = prepared["flights"]
    flown = flights.filter(pc.and_(pc.is_valid(flights["tailnum"]), pc.equal(flights["outcome"], "arrived")))
    diverted = flights.filter(pc.equal(flights["outcome"], "diverted"))
    both = delay_features.delay_features(pa.concat_tables([flown, diverted]), "plane")
    assert both.equals(
        delay_features.delay_features(flights.filter(pc.invert(pc.equal(flights["outcome"], "cancelled"))), "plane")
    )
    assert None not in both["tailnum"].to_pylist()


def test_weather_features_of_an_hour_use_it_and_the_hours_before(
    prepared: dict[str, pa.Table], feature_tables: dict[str, pa.Table]
) -> None:
    observed = {(row["origin"], row["observed_at"]): row for row in prepared["weather"].to_pylist()}
    table = feature_tables["origin_weather"]
    assert table.num_rows == len(observed)
    for row in random.Random(3).sample(table.to_pylist(), 200):
        before = [observed.get((row["origin"], row["event_timestamp"] - hours * HOUR)) for hours in range(6)]
        present = [hour for hour in before if hour]
        assert row["temp"] == pytest.approx(before[0]["temp"])
        assert row["precip_6h"] == pytest.approx(sum(hour["precip"] for hour in present), abs=1e-6)
        assert row["visib_min_3h"] == pytest.approx(min(hour["visib"] for hour in before[:3] if hour))
        earlier = before[3]["pressure"] if before[3] else None
        if earlier is None or before[0]["pressure"] is None:
            assert row["pressure_change_3h"] is None
        else:
            assert row["pressure_change_3h"] == pytest.approx(before[0]["pressure"] - earlier, abs=1e-3)


def test_the_features_of_planes_are_known_long_before_the_first_flight(feature_tables: dict[str, pa.Table]) -> None:
    table = feature_tables["plane"]
    assert set(table["event_timestamp"].to_pylist()) == {datetime(2000, 1, 1, tzinfo=UTC)}
    assert table.num_rows == 3_322


def test_the_tables_carry_exactly_the_features_of_the_model(feature_tables: dict[str, pa.Table]) -> None:
    stored = {name for table in feature_tables.values() for name in table.column_names[2:]}
    from_request = {*flights_data.REQUEST_FEATURES, *flights_data.CALENDAR_FEATURES}
    assert stored | from_request == set(flights_data.FEATURES)
    assert len(flights_data.FEATURES) == len(set(flights_data.FEATURES))


def test_a_table_without_its_columns_is_refused(prepared: dict[str, pa.Table]) -> None:
    with pytest.raises(BadInput, match=r"lacks the column\(s\) landed_at .* Make it again: python -m jobs.prepare"):
        delay_features.delay_features(prepared["flights"].drop_columns(["landed_at"]), "origin")
    with pytest.raises(BadInput, match="'weather' has no rows"):
        weather_features.weather_features(prepared["weather"].slice(0, 0))
    with pytest.raises(BadInput, match="'planes' has no rows"):
        plane_features.plane_features(prepared["planes"].slice(0, 0))
