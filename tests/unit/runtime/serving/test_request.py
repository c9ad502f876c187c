"""Requests checked against a model's schema: refusals, their messages, and derived columns."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.errors import InvalidData, InvalidInput, Malformed, TooLarge
from rayplane.runtime.models.card import Derived, RequestColumn, RequestSchema
from rayplane.runtime.serving.request import complete, describe, instant_of, parse

ZONE = "America/New_York"
SCHEMA = RequestSchema(
    columns=[
        RequestColumn(name="origin", type="string"),
        RequestColumn(name="dest", type="string"),
        RequestColumn(name="scheduled_at", type="instant"),
        RequestColumn(name="distance", type="integer", required=False),
        RequestColumn(name="load", type="number", required=False),
        RequestColumn(name="wet", type="boolean", required=False, default=False),
    ],
    derived=[
        Derived(name="route", rule="join", columns=["origin", "dest"]),
        Derived(name="distance", rule="lookup", columns=["route"], table={"JFK-LAX": 2475}),
        Derived(name="minute", rule="minute_of_day", columns=["scheduled_at"], zone=ZONE),
        Derived(name="day", rule="day_of_year", columns=["scheduled_at"], zone=ZONE),
        Derived(name="weekday", rule="weekday", columns=["scheduled_at"], zone=ZONE),
        Derived(name="month", rule="month", columns=["scheduled_at"], zone=ZONE),
    ],
    instant="scheduled_at",
    lead_seconds=3600,
)
GOOD = {"origin": "JFK", "dest": "LAX", "scheduled_at": "2013-10-15T23:30:00-04:00"}


def body(*instances: Any) -> bytes:
    return json.dumps({"instances": instances}).encode()


def wrong(*instances: Any) -> list[dict[str, Any]]:
    with pytest.raises(InvalidData) as caught:
        parse(body(*instances), SCHEMA)
    assert caught.value.status == 422
    errors: list[dict[str, Any]] = caught.value.fields["errors"]
    assert errors[0]["column"] in caught.value.detail
    return errors


def test_a_good_instance_is_typed_and_defaults_are_filled_in() -> None:
    assert parse(body(GOOD), SCHEMA) == [
        {
            "origin": "JFK",
            "dest": "LAX",
            "scheduled_at": datetime(2013, 10, 16, 3, 30, tzinfo=UTC),
            "distance": None,
            "load": None,
            "wet": False,
        }
    ]


def test_derived_columns_use_the_local_time_of_the_zone() -> None:
    row = complete(parse(body(GOOD), SCHEMA)[0], SCHEMA)
    assert (row["route"], row["distance"]) == ("JFK-LAX", 2475)
    assert (row["minute"], row["day"], row["weekday"], row["month"]) == (1410, 288, 2, 10)
    assert instant_of(row, SCHEMA, datetime.now(UTC)) == datetime(2013, 10, 16, 2, 30, tzinfo=UTC)


def test_a_sent_column_is_not_derived_and_a_column_that_cannot_be_derived_is_missing() -> None:
    sent = complete(parse(body({**GOOD, "distance": 7}), SCHEMA)[0], SCHEMA)
    unknown = complete(parse(body({**GOOD, "dest": "XXX"}), SCHEMA)[0], SCHEMA)
    assert (sent["distance"], unknown["distance"]) == (7, None)


def test_the_error_of_a_missing_column_names_it_and_its_type() -> None:
    assert wrong({k: v for k, v in GOOD.items() if k != "dest"}) == [
        {"instance": 0, "column": "dest", "problem": "missing", "expected": "a string"}
    ]


def test_the_error_of_an_unknown_column_suggests_the_nearest_known_one() -> None:
    errors = wrong({**GOOD, "orgin": "JFK"})
    assert errors[0]["column"] == "orgin"
    assert errors[0]["problem"] == "unknown column"
    assert "'origin'" in errors[0]["expected"]


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("origin", 7, "a number"),
        ("origin", None, "null"),
        ("distance", "7", "a string"),
        ("distance", 7.5, "a number"),
        ("distance", True, "true or false"),
        ("distance", 2**80, "64 bits"),
        ("load", "heavy", "a string"),
        ("load", [1], "a list"),
        ("wet", 1, "a number"),
        ("origin", "\ud800", "surrogate"),
        ("scheduled_at", 1381879800, "a number"),
        ("scheduled_at", "0001-01-01T00:30:00Z", "beyond the calendar"),
        ("scheduled_at", "9999-12-31T23:30:00Z", "beyond the calendar"),
        ("scheduled_at", "tomorrow", "no instant"),
        ("scheduled_at", "2013-10-15T23:30:00", "no zone"),
        ("scheduled_at", "0001-01-01T00:00:00+14:00", "calendar"),
    ],
)
def test_the_error_of_a_value_of_another_type_names_its_type_and_the_expected_one(
    column: str, value: Any, problem: str
) -> None:
    (error,) = wrong({**GOOD, column: value})
    assert error["column"] == column
    assert problem in error["problem"]
    assert error["expected"]


def test_a_number_that_is_not_finite_is_refused() -> None:
    raw = json.dumps({"instances": [GOOD]}).replace('"JFK"', '"JFK", "load": NaN')
    with pytest.raises(InvalidData, match="not a finite number"):
        parse(raw.encode(), SCHEMA)
    with pytest.raises(InvalidData, match="not a finite number"):
        parse(raw.replace("NaN", "9" * 400).encode(), SCHEMA)


def test_every_wrong_instance_is_listed_with_its_index_up_to_a_limit() -> None:
    assert [e["instance"] for e in wrong(GOOD, {**GOOD, "dest": 1}, {**GOOD, "origin": 2})] == [1, 2]
    assert len(wrong(*[{}] * 50)) == 20


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"rows": []}',
        b'{"instances": {}}',
        b'{"instances": []}',
        b'{"instances": [{}], "x": 1}',
    ],
)
def test_a_body_that_is_not_a_list_of_instances_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse(raw, SCHEMA)
    assert caught.value.status == 400
    assert "instances" in str(caught.value)


def test_too_many_instances_are_refused_before_any_is_checked() -> None:
    with pytest.raises(TooLarge) as caught:
        parse(body(*[None] * 11), SCHEMA, max_instances=10)
    assert caught.value.status == 413


@given(st.binary(max_size=200) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda v: body(v)))
def test_any_body_is_either_parsed_or_refused(raw: bytes) -> None:
    try:
        parse(raw, SCHEMA)
    except InvalidInput as exc:
        json.dumps(exc.to_problem())


def test_the_schema_is_described_with_the_expected_types() -> None:
    described = {column["name"]: column for column in describe(SCHEMA)}
    assert described["scheduled_at"]["required"] is True
    assert "ISO 8601" in described["scheduled_at"]["expected"]
