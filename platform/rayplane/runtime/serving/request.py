"""Check the instances of a request against a model's schema, and compute the derived columns. Pure."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from rayplane.errors import InvalidData, Malformed, TooLarge
from rayplane.runtime.models.card import ColumnType, Derived, RequestColumn, RequestSchema

MAX_INSTANCES = 1000
MAX_ERRORS = 20
"""Errors that one answer lists at most."""

Row = dict[str, Any]

EXPECTED: Mapping[ColumnType, str] = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "instant": "a string with an instant in ISO 8601 with a zone, such as 2013-10-15T18:30:00-04:00",
}


def parse(body: bytes, schema: RequestSchema, *, max_instances: int = MAX_INSTANCES) -> list[Row]:
    """Parse and check ``{"instances": [{column: value}]}``; returns rows with instants in UTC and defaults filled in.

    Raises Malformed for a body that is not such JSON, TooLarge for more than ``max_instances``, InvalidData for columns
    that are unknown, missing or of another type: its field ``errors`` lists each with instance, column, problem and
    expected type.
    """
    instances = _instances(body)
    if len(instances) > max_instances:
        raise TooLarge(
            f"The request has {len(instances)} instances; at most {max_instances} are taken at once.",
            remedy="Send them in several requests.",
            max_instances=max_instances,
        )
    columns = {column.name: column for column in schema.columns}
    errors: list[dict[str, Any]] = []
    rows = [_row(index, instance, columns, errors) for index, instance in enumerate(instances)]
    if errors:
        first = errors[0]
        more = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise InvalidData(
            f"Column '{first['column']}' of instance {first['instance']}: {first['problem']}{more}.",
            remedy=f"Expected {first['expected']}. GET this URL shows the schema.",
            errors=errors[:MAX_ERRORS],
        )
    return rows


def complete(row: Row, schema: RequestSchema) -> Row:
    """Add the derived columns to the row, except those that the client sent, and return it."""
    for derived in schema.derived:
        if row.get(derived.name) is None:
            row[derived.name] = _RULES[derived.rule](derived, [row.get(name) for name in derived.columns])
    return row


def instant_of(row: Row, schema: RequestSchema, now: datetime) -> datetime:
    """The instant as of which the row's features are read."""
    if schema.instant is None:
        return now
    event: datetime = row[schema.instant]
    return event - timedelta(seconds=schema.lead_seconds)


def describe(schema: RequestSchema) -> list[dict[str, Any]]:
    """The request's columns, described for clients."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "required": column.required,
            "expected": EXPECTED[column.type],
            "description": column.description,
            "example": column.example,
        }
        for column in schema.columns
    ]


def _instances(body: bytes) -> list[Any]:
    remedy = 'Send {"instances": [{"<column>": <value>}]}.'
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Malformed(f"The body is not JSON: {exc}.", remedy=remedy) from exc
    if not isinstance(document, dict) or not isinstance(document.get("instances"), list):
        raise Malformed("The body is not an object with a list 'instances'.", remedy=remedy)
    others = [key for key in document if key != "instances"]
    if others:
        raise Malformed(f"The body has an unknown member '{others[0]}'.", remedy=remedy)
    if not document["instances"]:
        raise Malformed("The list 'instances' is empty.", remedy=remedy)
    instances: list[Any] = document["instances"]
    return instances


def _row(index: int, instance: Any, columns: Mapping[str, RequestColumn], errors: list[dict[str, Any]]) -> Row:
    def wrong(column: str, problem: str, expected: str) -> None:
        errors.append({"instance": index, "column": column, "problem": problem, "expected": expected})

    if not isinstance(instance, dict):
        wrong("", f"the instance is {_kind(instance)}", "an object of columns and values")
        return {}
    for name in instance:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
            known = f"the column '{near[0]}'" if near else f"one of {', '.join(columns)}"
            wrong(name, "unknown column", known)
    row: Row = {}
    for name, column in columns.items():
        value = instance.get(name)
        if value is None:
            if column.required:
                wrong(name, "null" if name in instance else "missing", EXPECTED[column.type])
            row[name] = column.default
            continue
        try:
            row[name] = _PARSERS[column.type](value)
        except ValueError as exc:
            wrong(name, str(exc), EXPECTED[column.type])
    return row


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(_kind(value))
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise ValueError("text with half a surrogate pair") from exc
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(_kind(value))
    if not -(2**63) <= value < 2**63:
        raise ValueError("a number beyond 64 bits")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(_kind(value))
    # Python's JSON parser accepts NaN and Infinity, which JSON lacks, and integers that are too large for a float.
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(_kind(value))
    return value


def _instant(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError(_kind(value))
    try:
        instant = datetime.fromisoformat(value)
    except ValueError as exc:
        raise ValueError(f"'{value}' is no instant") from exc
    if instant.tzinfo is None:
        raise ValueError(f"'{value}' has no zone")
    # In the calendar's first and last year, another zone or subtracting the lead may leave the calendar.
    if not datetime.min.year < instant.year < datetime.max.year:
        raise ValueError(f"'{value}' is beyond the calendar")
    return instant.astimezone(UTC)


_PARSERS: Mapping[ColumnType, Callable[[Any], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "instant": _instant,
}


def _kind(value: Any) -> str:
    """The type of a JSON value, for error messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def _join(derived: Derived, values: list[Any]) -> Any:
    return None if None in values else derived.separator.join(str(value) for value in values)


def _lookup(derived: Derived, values: list[Any]) -> Any:
    return derived.table.get(str(values[0]))


def _of_local(part: Callable[[datetime], int]) -> Callable[[Derived, list[Any]], Any]:
    def rule(derived: Derived, values: list[Any]) -> Any:
        return None if values[0] is None else part(values[0].astimezone(ZoneInfo(derived.zone)))

    return rule


_RULES: Mapping[str, Callable[[Derived, list[Any]], Any]] = {
    "join": _join,
    "lookup": _lookup,
    "minute_of_day": _of_local(lambda local: local.hour * 60 + local.minute),
    "day_of_year": _of_local(lambda local: local.timetuple().tm_yday),
    "weekday": _of_local(lambda local: local.isoweekday()),
    "month": _of_local(lambda local: local.month),
}
