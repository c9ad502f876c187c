"""Preparation: every rule quarantines the rows that it names and no others, counts add up, instants are right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs import prepare
from jobs.flights_data import RAW_SCHEMAS, BadInput
from tests.data.slices import raw_tables
from tests.unit.jobs.flight_tables import shuffled

GOOD_FLIGHT: dict[str, Any] = {
    "year": 2013, "month": 1, "day": 10, "dep_time": 605, "sched_dep_time": 600, "dep_delay": 5, "arr_time": 855,
    "sched_arr_time": 900, "arr_delay": -5, "carrier": "UA", "flight": 9001, "tailnum": "N14228", "origin": "EWR",
    "dest": "MIA", "air_time": 150, "distance": 1085, "hour": 6, "minute": 0,
    "time_hour": datetime(2013, 1, 10, 11, tzinfo=UTC),
}  # fmt: skip
NOT_FLOWN = {"dep_time": None, "dep_delay": None, "arr_time": None, "arr_delay": None, "air_time": None}
GOOD_WEATHER: dict[str, Any] = {
    "origin": "EWR", "year": 2012, "month": 12, "day": 10, "hour": 6, "temp": 40.0, "dewp": 30.0, "humid": 60.0,
    "wind_dir": 270, "wind_speed": 10.0, "wind_gust": None, "precip": 0.0, "pressure": 1012.0, "visib": 10.0,
    "time_hour": datetime(2012, 12, 10, 11, tzinfo=UTC),
}  # fmt: skip
GOOD_PLANE: dict[str, Any] = {
    "tailnum": "N00001", "year": 2004, "type": "Fixed wing multi engine", "manufacturer": "EMBRAER",
    "model": "EMB-145XR", "engines": 2, "seats": 55, "speed": None, "engine": "Turbo-fan",
}  # fmt: skip

BAD_FLIGHTS: list[tuple[dict[str, Any], str]] = [
    ({"carrier": None}, "carrier is missing"),
    ({"flight": None}, "flight number is missing or not positive"),
    ({"flight": 0}, "flight number is missing or not positive"),
    ({"month": 2, "day": 30, "time_hour": None}, "date is missing or impossible"),
    ({"year": None}, "date is missing or impossible"),
    ({"origin": "XXX"}, "origin is unknown"),
    ({"origin": None}, "origin is unknown"),
    ({"dest": "QQQ"}, "destination is unknown"),
    ({"dest": "EWR"}, "origin and destination are the same"),
    ({"sched_dep_time": None}, "scheduled departure is missing"),
    ({"sched_dep_time": 2561}, "scheduled departure is no time of day"),
    ({"sched_dep_time": -5}, "scheduled departure is no time of day"),
    ({"sched_arr_time": None}, "scheduled arrival is missing"),
    ({"sched_arr_time": 975}, "scheduled arrival is no time of day"),
    ({"dep_time": 2561}, "departure is no time of day"),
    ({"arr_time": 899}, "arrival is no time of day"),
    ({"distance": -1}, "distance is missing or not positive"),
    ({"distance": None}, "distance is missing or not positive"),
    ({"air_time": 0}, "air time is not positive"),
    ({"dep_time": None}, "departure and its delay do not come together"),
    ({"dep_time": None, "dep_delay": None}, "arrived without having departed"),
    ({"dep_delay": 5000}, "departure delay is beyond two hours early or two days late"),
    ({"dep_delay": 6}, "departure does not agree with its schedule and delay"),
    ({"time_hour": datetime(2013, 1, 10, 6, tzinfo=UTC)}, "scheduled hour does not agree with time_hour"),
    ({"arr_delay": -240}, "landing is not after departure"),
    ({"arr_delay": -60}, "landing does not leave the air time"),
    ({"arr_delay": 600}, "landing is more than six hours beyond the air time"),
]
BAD_WEATHER: list[tuple[dict[str, Any], str]] = [
    ({"origin": "XXX"}, "origin is unknown"),
    ({"time_hour": None}, "time_hour is missing"),
    ({"time_hour": datetime(2012, 12, 10, 11, 30, tzinfo=UTC)}, "time_hour is not a full hour"),
    ({"temp": 300.0}, "temperature is beyond -80 to 140 F"),
    ({"dewp": -200.0}, "dew point is beyond -100 to 110 F"),
    ({"humid": 100.5}, "humidity is beyond 0 to 100 %"),
    ({"wind_dir": 400}, "wind direction is beyond 0 to 360 degrees"),
    ({"wind_speed": -1.0}, "wind speed is beyond 0 to 250 mph"),
    ({"wind_gust": 1000.0}, "wind gust is beyond 0 to 300 mph"),
    ({"precip": -0.1}, "precipitation is beyond 0 to 20 inches an hour"),
    ({"pressure": 0.0}, "pressure is beyond 850 to 1100 mbar"),
    ({"visib": -1.0}, "visibility is negative"),
]
BAD_PLANES: list[tuple[dict[str, Any], str]] = [
    ({"tailnum": None}, "tail number is missing"),
    ({"year": 1899}, "year is beyond 1903 to 2014"),
    ({"manufacturer": ""}, "manufacturer is missing"),
    ({"engines": 0}, "engines are missing or beyond 1 to 8"),
    ({"seats": None}, "seats are missing or beyond 1 to 900"),
]


def flights_of(*changes: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([GOOD_FLIGHT | change for change in changes], schema=RAW_SCHEMAS["flights"])


def prepare_one(**change: Any) -> dict[str, Any]:
    good = prepare.prepare_flights(flights_of(change), raw_tables(30)["airports"]).good
    assert good.num_rows == 1, "the row was quarantined"
    row: dict[str, Any] = good.to_pylist()[0]
    return row


@pytest.mark.parametrize(
    ("change", "reason"), BAD_FLIGHTS, ids=[f"{reason} {change}" for change, reason in BAD_FLIGHTS]
)
def test_a_bad_flight_among_good_ones_is_quarantined_with_its_reason(
    raw: dict[str, pa.Table], change: dict[str, Any], reason: str
) -> None:
    good = raw["flights"].slice(0, 1000)
    cleaned = prepare.prepare_flights(pa.concat_tables([good, flights_of(change)]), raw["airports"])
    assert cleaned.good.num_rows == 1000
    assert reason in cleaned.quarantined["reason"][0].as_py().split("; ")
    assert cleaned.quarantined.drop_columns(["reason"]).equals(flights_of(change))


@pytest.mark.parametrize(("change", "reason"), BAD_WEATHER, ids=[reason for _, reason in BAD_WEATHER])
def test_bad_weather_is_quarantined_with_its_reason(
    raw: dict[str, pa.Table], change: dict[str, Any], reason: str
) -> None:
    bad = pa.Table.from_pylist([GOOD_WEATHER | change], schema=RAW_SCHEMAS["weather"])
    cleaned = prepare.prepare_weather(pa.concat_tables([raw["weather"], bad]), raw["airports"])
    assert cleaned.good.num_rows == raw["weather"].num_rows
    assert cleaned.quarantined["reason"].to_pylist() == [reason]


@pytest.mark.parametrize(("change", "reason"), BAD_PLANES, ids=[reason for _, reason in BAD_PLANES])
def test_a_bad_plane_is_quarantined_with_its_reason(
    raw: dict[str, pa.Table], change: dict[str, Any], reason: str
) -> None:
    bad = pa.Table.from_pylist([GOOD_PLANE | change], schema=RAW_SCHEMAS["planes"])
    cleaned = prepare.prepare_planes(pa.concat_tables([raw["planes"], bad]), raw["airports"])
    assert cleaned.good.num_rows == raw["planes"].num_rows
    assert cleaned.quarantined["reason"].to_pylist() == [reason]


def test_every_rule_has_an_injected_row() -> None:
    assert {reason for _, reason in BAD_FLIGHTS} == set(prepare.FLIGHT_RULES)
    assert {reason for _, reason in BAD_WEATHER} == set(prepare.WEATHER_RULES)
    assert {reason for _, reason in BAD_PLANES} == set(prepare.PLANE_RULES)


def test_the_rows_that_the_injections_start_from_are_good(raw: dict[str, pa.Table]) -> None:
    assert prepare.prepare_flights(flights_of({}), raw["airports"]).quarantined.num_rows == 0
    weather = pa.Table.from_pylist([GOOD_WEATHER], schema=RAW_SCHEMAS["weather"])
    assert prepare.prepare_weather(weather, raw["airports"]).quarantined.num_rows == 0
    planes = pa.Table.from_pylist([GOOD_PLANE], schema=RAW_SCHEMAS["planes"])
    assert prepare.prepare_planes(planes, raw["airports"]).quarantined.num_rows == 0


def test_a_row_that_breaks_two_rules_has_both_reasons(raw: dict[str, pa.Table]) -> None:
    cleaned = prepare.prepare_flights(flights_of({"carrier": None, "distance": -1}), raw["airports"])
    assert cleaned.quarantined["reason"][0].as_py() == "carrier is missing; distance is missing or not positive"


def test_of_flights_with_one_key_the_same_one_stays_in_any_order_of_rows(raw: dict[str, pa.Table]) -> None:
    twice = flights_of({}, {"distance": 1086}, {"distance": 1087})
    outcomes = [prepare.prepare_flights(shuffled(twice, seed), raw["airports"]) for seed in range(5)]
    assert all(outcome.good.equals(outcomes[0].good) for outcome in outcomes)
    assert outcomes[0].good["distance"].to_pylist() == [1085]
    assert outcomes[0].quarantined["reason"].to_pylist() == ["duplicate of another row with the same flight_id"] * 2


def test_duplicates_of_weather_and_planes_are_quarantined(raw: dict[str, pa.Table]) -> None:
    for name, prepared in (("weather", prepare.prepare_weather), ("planes", prepare.prepare_planes)):
        cleaned = prepared(pa.concat_tables([raw[name], raw[name].slice(5, 3)]), raw["airports"])
        assert (cleaned.good.num_rows, cleaned.quarantined.num_rows) == (raw[name].num_rows, 3)


def test_a_bad_row_does_not_replace_the_good_row_with_its_key(raw: dict[str, pa.Table]) -> None:
    cleaned = prepare.prepare_flights(flights_of({"distance": -1}, {}), raw["airports"])
    assert cleaned.good["distance"].to_pylist() == [1085]


def test_the_same_rows_in_any_order_give_the_same_tables(raw: dict[str, pa.Table]) -> None:
    for name, prepared in (
        ("flights", prepare.prepare_flights),
        ("weather", prepare.prepare_weather),
        ("planes", prepare.prepare_planes),
    ):
        once, again = prepared(raw[name], raw["airports"]), prepared(shuffled(raw[name]), raw["airports"])
        assert once.good.equals(again.good)
        assert once.quarantined.equals(again.quarantined)


def test_in_the_whole_year_one_weather_row_is_bad_and_no_flight_is() -> None:
    tables = raw_tables(None)
    flights = prepare.prepare_flights(tables["flights"], tables["airports"])
    assert (flights.good.num_rows, flights.quarantined.num_rows) == (336_776, 0)
    assert flights.good["late"].null_count == 336_776 - 327_346
    weather = prepare.prepare_weather(tables["weather"], tables["airports"])
    assert weather.quarantined["reason"].to_pylist() == ["wind speed is beyond 0 to 250 mph"]


def test_in_the_whole_year_the_landing_leaves_a_plausible_taxi_time() -> None:
    tables = raw_tables(None)
    flights = prepare.prepare_flights(tables["flights"], tables["airports"]).good
    landed = flights.filter(pc.is_valid(flights["landed_at"]))
    elapsed = pc.divide(pc.subtract(landed["landed_at"].cast("int64"), landed["departed_at"].cast("int64")), 60_000_000)
    taxi = pc.min_max(pc.subtract(elapsed, landed["air_time"].cast("int64"))).as_py()
    assert taxi == {"min": 5, "max": 235}


def test_flight_times_are_the_airports_local_times_in_utc() -> None:
    row = prepare_one()
    assert row["flight_id"] == "2013-01-10-UA-9001-EWR"
    assert row["scheduled_at"] == datetime(2013, 1, 10, 11, tzinfo=UTC)
    assert row["predict_at"] == datetime(2013, 1, 10, 10, tzinfo=UTC)
    assert row["departed_at"] == datetime(2013, 1, 10, 11, 5, tzinfo=UTC)
    assert row["landed_at"] == datetime(2013, 1, 10, 13, 55, tzinfo=UTC)
    assert (row["weekday"], row["scheduled_minute"], row["day_of_year"], row["route"]) == (4, 360, 10, "EWR-MIA")


def test_an_evening_flight_lands_on_the_next_day() -> None:
    late = {"sched_dep_time": 2330, "dep_time": 2335, "time_hour": None, "sched_arr_time": 230, "arr_delay": 0}
    assert prepare_one(**late)["landed_at"] == datetime(2013, 1, 11, 7, 30, tzinfo=UTC)


def test_a_flight_to_the_west_takes_longer_than_the_difference_of_its_local_times() -> None:
    west = {"dest": "HNL", "sched_arr_time": 1200, "arr_delay": 0, "air_time": 640}
    assert prepare_one(**west)["landed_at"] == datetime(2013, 1, 10, 22, 0, tzinfo=UTC)


def test_a_flight_over_the_change_to_summer_time_has_its_true_length() -> None:
    change = {
        "month": 3, "day": 9, "sched_dep_time": 2300, "dep_time": 2300, "dep_delay": 0, "sched_arr_time": 330,
        "arr_delay": 0, "air_time": 180, "time_hour": None,
    }  # fmt: skip
    row = prepare_one(**change)
    assert row["landed_at"] - row["departed_at"] == timedelta(hours=3, minutes=30)


@pytest.mark.parametrize("dest", sorted(prepare.ZONES_MISSING_IN_AIRPORTS))
def test_destinations_missing_in_airports_use_atlantic_time_without_summer_time(dest: str) -> None:
    assert dest not in raw_tables(30)["airports"]["faa"].to_pylist()
    summer = {"month": 7, "dest": dest, "sched_arr_time": 1000, "arr_delay": 0, "air_time": 200, "time_hour": None}
    assert prepare_one(**summer)["landed_at"] == datetime(2013, 7, 10, 14, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "outcome", "late"),
    [
        ({"arr_delay": 15}, "arrived", 0),
        ({"arr_delay": 16}, "arrived", 1),
        (NOT_FLOWN, "cancelled", None),
        ({"arr_delay": None, "air_time": None}, "diverted", None),
    ],
)
def test_cancelled_and_diverted_flights_stay_without_a_label(
    change: dict[str, Any], outcome: str, late: int | None
) -> None:
    row = prepare_one(**change)
    assert (row["outcome"], row["late"]) == (outcome, late)


def test_a_table_without_rows_or_columns_is_refused_with_the_command_that_makes_it(raw: dict[str, pa.Table]) -> None:
    with pytest.raises(BadInput, match=r"'flights-raw' has no rows. Ingest it again: python -m jobs.ingest flights"):
        prepare.prepare_flights(raw["flights"].slice(0, 0), raw["airports"])
    with pytest.raises(BadInput, match=r"'weather-raw' lacks the column\(s\) humid"):
        prepare.prepare_weather(raw["weather"].drop_columns(["humid"]), raw["airports"])


def test_an_airport_that_is_listed_twice_doubles_no_flight() -> None:
    airports = raw_tables()["airports"]
    twice = airports.filter(pc.equal(airports["faa"], "MIA"))
    index = twice.schema.get_field_index("tzone")
    twice = twice.set_column(index, twice.schema.field(index), pa.array(["America/Chicago"]))
    flights = pa.Table.from_pylist([GOOD_FLIGHT], RAW_SCHEMAS["flights"])
    cleaned = prepare.prepare_flights(flights, pa.concat_tables([airports, twice]))
    prepare.require_all("flights", flights.num_rows, cleaned)


def test_a_lost_row_is_detected() -> None:
    flights = pa.Table.from_pylist([GOOD_FLIGHT], RAW_SCHEMAS["flights"])
    cleaned = prepare.prepare_flights(flights, raw_tables()["airports"])
    with pytest.raises(AssertionError, match="flights: 2 rows in, but 1 out and 0 quarantined"):
        prepare.require_all("flights", 2, cleaned)
