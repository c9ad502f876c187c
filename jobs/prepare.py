"""Validate flights, weather and planes, and give each flight its instants in UTC and its label.

Reads ``flights-raw``, ``weather-raw``, ``planes-raw`` and ``airports-raw``; publishes ``flights``, ``weather`` and
``planes``, and the rows that break a rule, with their raw columns and the ``reason``, as ``flights-quarantine``,
``weather-quarantine`` and ``planes-quarantine``. Rows in = rows out + rows quarantined, always. Cancelled and diverted
flights are not bad rows: they stay, unlabelled.

Instants of a flight: the scheduled departure is a local time at the origin. The scheduled arrival is a local time at
the destination without a date: the first such instant after the scheduled departure. Departure and landing are those
two plus the recorded delays, which is exact also for a flight across midnight, time zones or a change to summer time.
Over the whole year this leaves 5 to 235 minutes of taxi time beside the recorded air time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from jobs import flights_data
from jobs.flights_data import LATE_MINUTES, RAW_SCHEMAS

if TYPE_CHECKING:
    import ray.data

ZONES_MISSING_IN_AIRPORTS = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
"""IANA zones of the four destinations (7,602 flights) that the table ``airports`` does not list."""


class Cleaned(NamedTuple):
    """The good rows, and the quarantined ones with their raw columns and the ``reason``."""

    good: pa.Table
    quarantined: pa.Table


FLIGHT_RULES = {
    "carrier is missing": "carrier IS NULL OR carrier = ''",
    "flight number is missing or not positive": "coalesce(flight, 0) <= 0",
    "date is missing or impossible": "day_at IS NULL",
    "origin is unknown": "origin_zone IS NULL",
    "destination is unknown": "dest_zone IS NULL",
    "origin and destination are the same": "origin = dest",
    "scheduled departure is missing": "sched_dep_time IS NULL",
    "scheduled departure is no time of day": "sched_dep_time NOT BETWEEN 0 AND 2359 OR sched_dep_time % 100 > 59",
    "scheduled arrival is missing": "sched_arr_time IS NULL",
    "scheduled arrival is no time of day": "sched_arr_time NOT BETWEEN 0 AND 2359 OR sched_arr_time % 100 > 59",
    "departure is no time of day": "dep_time NOT BETWEEN 0 AND 2400 OR dep_time % 100 > 59",
    "arrival is no time of day": "arr_time NOT BETWEEN 0 AND 2400 OR arr_time % 100 > 59",
    "distance is missing or not positive": "coalesce(distance, 0) <= 0",
    "air time is not positive": "air_time <= 0",
    "departure and its delay do not come together": "(dep_time IS NULL) <> (dep_delay IS NULL)",
    "arrived without having departed": "arr_delay IS NOT NULL AND dep_delay IS NULL",
    "departure delay is beyond two hours early or two days late": "dep_delay NOT BETWEEN -120 AND 2880",
    "departure does not agree with its schedule and delay": (
        "dep_time BETWEEN 0 AND 2400 AND dep_delay BETWEEN -120 AND 2880"
        " AND hhmm(departed_at, origin_zone) <> dep_time % 2400"
    ),
    "scheduled hour does not agree with time_hour": "date_trunc('hour', scheduled_at) <> time_hour",
    "landing is not after departure": "landed_at <= departed_at",
    "landing does not leave the air time": "landed_at > departed_at AND landed_at < departed_at + to_minutes(air_time)",
    "landing is more than six hours beyond the air time": "landed_at > departed_at + to_minutes(air_time + 360)",
}
"""Reason -> SQL condition under which a raw flight is bad. Several reasons are joined by '; '."""

WEATHER_RULES = {
    "origin is unknown": "origin IS NULL OR origin NOT IN (SELECT faa FROM airports)",
    "time_hour is missing": "time_hour IS NULL",
    "time_hour is not a full hour": "date_trunc('hour', time_hour) <> time_hour",
    "temperature is beyond -80 to 140 F": "temp NOT BETWEEN -80 AND 140",
    "dew point is beyond -100 to 110 F": "dewp NOT BETWEEN -100 AND 110",
    "humidity is beyond 0 to 100 %": "humid NOT BETWEEN 0 AND 100",
    "wind direction is beyond 0 to 360 degrees": "wind_dir NOT BETWEEN 0 AND 360",
    "wind speed is beyond 0 to 250 mph": "wind_speed NOT BETWEEN 0 AND 250",
    "wind gust is beyond 0 to 300 mph": "wind_gust NOT BETWEEN 0 AND 300",
    "precipitation is beyond 0 to 20 inches an hour": "precip NOT BETWEEN 0 AND 20",
    "pressure is beyond 850 to 1100 mbar": "pressure NOT BETWEEN 850 AND 1100",
    "visibility is negative": "visib < 0",
}

PLANE_RULES = {
    "tail number is missing": "tailnum IS NULL OR tailnum = ''",
    "year is beyond 1903 to 2014": "year NOT BETWEEN 1903 AND 2014",
    "manufacturer is missing": "manufacturer IS NULL OR manufacturer = ''",
    "engines are missing or beyond 1 to 8": "coalesce(engines, 0) NOT BETWEEN 1 AND 8",
    "seats are missing or beyond 1 to 900": "coalesce(seats, 0) NOT BETWEEN 1 AND 900",
}


def main() -> None:
    """Check each table block by block in Ray Data, remove duplicates, publish good and quarantined rows."""
    from rayplane.runtime import datasets, report

    airports = datasets.read("airports-raw")
    counts = {}
    for name, check in (("flights", check_flights), ("weather", check_weather), ("planes", check_planes)):
        raw = datasets.read_ray(f"{name}-raw")
        cleaned = settle(name, _checked(raw, check, airports))
        require_all(name, datasets.version(f"{name}-raw").rows, cleaned)
        inputs = [f"{name}-raw", "airports-raw"]
        good = datasets.publish(name, cleaned.good, inputs=inputs)
        bad = datasets.publish(f"{name}-quarantine", cleaned.quarantined, inputs=inputs, allow_empty=True)
        counts[name] = {"rows": good.rows, "quarantined": bad.rows}
        print(f"{name}@{good.version}: {good.rows} rows, {bad.rows} quarantined")
    report.output("prepared", counts)


def require_all(name: str, raw_rows: int, cleaned: Cleaned) -> None:
    """Raise ``AssertionError`` unless each of the ``raw_rows`` rows is either good or quarantined."""
    good, bad = cleaned.good.num_rows, cleaned.quarantined.num_rows
    assert raw_rows == good + bad, f"{name}: {raw_rows} rows in, but {good} out and {bad} quarantined"


def prepare_flights(flights: pa.Table, airports: pa.Table) -> Cleaned:
    """Validated flights with ``flight_id``, UTC instants and label, in order of ``flight_id``.

    ``scheduled_at`` is the scheduled departure, ``predict_at`` an hour before it, ``departed_at`` and ``landed_at`` the
    actual departure and landing (null if there was none). ``late``: 1 if it arrived more than 15 minutes after
    schedule, else 0, null for cancelled and diverted flights. Raises ``BadInput`` for a missing column or no rows.
    """
    return settle("flights", check_flights(flights, airports))


def prepare_weather(weather: pa.Table, airports: pa.Table) -> Cleaned:
    """Validated hourly weather with ``observed_at``, by origin and hour. Raises as ``prepare_flights`` does."""
    return settle("weather", check_weather(weather, airports))


def prepare_planes(planes: pa.Table, airports: pa.Table) -> Cleaned:
    """Validated planes in order of ``tailnum``. Raises as ``prepare_flights`` does."""
    return settle("planes", check_planes(planes, airports))


def check_flights(flights: pa.Table, airports: pa.Table) -> pa.Table:
    """Add to a block of raw flights the prepared columns, prefixed ``p_``, and ``reason``, null for a good row."""
    _require("flights", flights)
    zones = pa.table(
        {"faa": list(ZONES_MISSING_IN_AIRPORTS), "zone": list(ZONES_MISSING_IN_AIRPORTS.values())},
        schema=pa.schema([("faa", pa.string()), ("zone", pa.string())]),
    )
    return flights_data.query(
        f"""
        CREATE TEMP MACRO hhmm(instant, zone) AS
            date_part('hour', timezone(zone, instant)) * 100 + date_part('minute', timezone(zone, instant));
        CREATE TEMP MACRO clock(day_at, hhmm_local) AS day_at + to_minutes(
            CASE WHEN hhmm_local BETWEEN 0 AND 2359 AND hhmm_local % 100 < 60
            THEN hhmm_local // 100 * 60 + hhmm_local % 100 END);
        WITH zones AS (
            SELECT faa, min(tzone) AS zone FROM airports WHERE tzone IS NOT NULL GROUP BY faa
            UNION SELECT faa, zone FROM known_zones WHERE faa NOT IN (SELECT faa FROM airports WHERE tzone IS NOT NULL)
        ), zoned AS (
            SELECT f.*, o.zone AS origin_zone, d.zone AS dest_zone,
                try_strptime(format('{{:04d}}-{{:02d}}-{{:02d}}', year, month, day), '%Y-%m-%d') AS day_at
            FROM flights f LEFT JOIN zones o ON o.faa = f.origin LEFT JOIN zones d ON d.faa = f.dest
        ), scheduled AS (
            SELECT *, clock(day_at, sched_dep_time) AS local_at, timezone(origin_zone, local_at) AS scheduled_at,
                clock(day_at, sched_arr_time) AS local_arrival,
                coalesce(
                    CASE WHEN timezone(dest_zone, local_arrival) > scheduled_at
                    THEN timezone(dest_zone, local_arrival) END,
                    timezone(dest_zone, local_arrival + INTERVAL 1 DAY)
                ) AS scheduled_arrival_at
            FROM zoned
        ), happened AS (
            SELECT *, scheduled_at + to_minutes(dep_delay) AS departed_at,
                scheduled_arrival_at + to_minutes(arr_delay) AS landed_at
            FROM scheduled
        )
        SELECT {_columns("flights")}, {_reason(FLIGHT_RULES)} AS reason,
            strftime(day_at, '%Y-%m-%d') || '-' || carrier || '-' || flight || '-' || origin AS p_flight_id,
            carrier AS p_carrier, flight AS p_flight, tailnum AS p_tailnum, origin AS p_origin, dest AS p_dest,
            origin || '-' || dest AS p_route,
            CAST(month AS INT) AS p_month,
            CAST(isodow(local_at) AS INT) AS p_weekday,
            CAST(dayofyear(local_at) AS INT) AS p_day_of_year,
            CAST(date_part('hour', local_at) * 60 + date_part('minute', local_at) AS INT) AS p_scheduled_minute,
            distance AS p_distance, air_time AS p_air_time, dep_delay AS p_dep_delay, arr_delay AS p_arr_delay,
            scheduled_at - INTERVAL 1 HOUR AS p_predict_at, scheduled_at AS p_scheduled_at,
            scheduled_arrival_at AS p_scheduled_arrival_at, departed_at AS p_departed_at, landed_at AS p_landed_at,
            CASE WHEN dep_delay IS NULL THEN 'cancelled' WHEN arr_delay IS NULL THEN 'diverted' ELSE 'arrived' END
                AS p_outcome,
            CAST(arr_delay > {LATE_MINUTES} AS INT) AS p_late
        FROM happened
        """,
        flights=flights,
        airports=airports,
        known_zones=zones,
    )


def check_weather(weather: pa.Table, airports: pa.Table) -> pa.Table:
    """Add prepared columns and ``reason`` to a block of raw weather, as ``check_flights`` does for flights."""
    _require("weather", weather)
    measured = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    return flights_data.query(
        f"""
        SELECT {_columns("weather")}, {_reason(WEATHER_RULES)} AS reason,
            origin AS p_origin, {", ".join(f"{name} AS p_{name}" for name in measured)}, time_hour AS p_observed_at
        FROM weather
        """,
        weather=weather,
        airports=airports,
    )


def check_planes(planes: pa.Table, airports: pa.Table) -> pa.Table:
    """Add prepared columns and ``reason`` to a block of raw planes, as ``check_flights`` does for flights."""
    del airports  # unused: main() calls the check of every table with the same arguments
    _require("planes", planes)
    prepared = ", ".join(f"{name} AS p_{name}" for name in RAW_SCHEMAS["planes"].names)
    return flights_data.query(
        f"SELECT {_columns('planes')}, {_reason(PLANE_RULES)} AS reason, {prepared} FROM planes", planes=planes
    )


KEYS = {"flights": ("flight_id",), "weather": ("origin", "observed_at"), "planes": ("tailnum",)}
"""Prepared table -> the columns of its unique key."""


def settle(name: str, checked: pa.Table) -> Cleaned:
    """Split checked rows into good and quarantined, keeping one good row of each key.

    Of several good rows with one key the first in the order of all raw columns stays, regardless of the input's order.
    Raises ``AssertionError`` unless rows in = good + quarantined.
    """
    key = ", ".join(f"p_{column}" for column in KEYS[name])
    prepared = [column for column in checked.column_names if column.startswith("p_")]
    duplicate = f"duplicate of another row with the same {' and '.join(KEYS[name])}"
    sql = f"""
        WITH ranked AS (
            SELECT *, row_number() OVER (PARTITION BY reason IS NULL, {key} ORDER BY {_columns(name)}) AS number
            FROM checked
        )
        SELECT * REPLACE (CASE WHEN reason IS NULL AND number > 1 THEN '{duplicate}' ELSE reason END AS reason)
        FROM ranked
    """
    judged = flights_data.query(sql, checked=checked)
    renamed = ", ".join(f"{column} AS {column[2:]}" for column in prepared)
    good = flights_data.query(f"SELECT {renamed} FROM judged WHERE reason IS NULL ORDER BY {key}", judged=judged)
    quarantined = flights_data.query(
        f"SELECT {_columns(name)}, reason FROM judged WHERE reason IS NOT NULL ORDER BY {_columns(name)}, reason",
        judged=judged,
    )
    assert checked.num_rows == good.num_rows + quarantined.num_rows, (
        f"{name}: {checked.num_rows} rows in, but {good.num_rows} out and {quarantined.num_rows} quarantined"
    )
    return Cleaned(good, quarantined)


def _checked(raw: ray.data.Dataset, check: Any, airports: pa.Table) -> pa.Table:
    import ray

    checked = raw.map_batches(check, fn_kwargs={"airports": airports}, batch_format="pyarrow", batch_size=None)
    return pa.concat_tables([block for block in ray.get(checked.to_arrow_refs()) if block.num_rows])


def _require(name: str, table: pa.Table) -> None:
    remedy = f"Ingest it again: python -m jobs.ingest {name}."
    flights_data.require_columns(table, RAW_SCHEMAS[name].names, what=f"The dataset '{name}-raw'", remedy=remedy)


def _columns(name: str) -> str:
    return ", ".join(RAW_SCHEMAS[name].names)


def _reason(rules: dict[str, str]) -> str:
    cases = ", ".join(f"CASE WHEN {condition} THEN '{reason}' END" for reason, condition in rules.items())
    return f"nullif(concat_ws('; ', {cases}), '')"


if __name__ == "__main__":
    flights_data.run(main)
