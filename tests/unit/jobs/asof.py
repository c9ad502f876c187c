"""Join flights with features point-in-time by DuckDB's ASOF join: independent of Feast, in order to check Feast."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import duckdb
import numpy as np
import pyarrow as pa

KEYS = {
    "origin_weather": "origin",
    "origin_delays": "origin",
    "carrier_delays": "carrier",
    "route_delays": "route",
    "plane_delays": "tailnum",
    "plane": "tailnum",
}


def asof_join(flights: pa.Table, tables: Mapping[str, pa.Table], ttls: Mapping[str, timedelta]) -> pa.Table:
    """Each flight's features as of ``predict_at``, in order of ``flight_id``; ``tables`` and ``ttls`` by view."""
    selected, joins = ["f.flight_id", "f.predict_at AS event_timestamp"], []
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("flights", flights)
        for view, table in tables.items():
            connection.register(view, table)
            fresh = f"f.predict_at - {view}.event_timestamp <= INTERVAL {int(ttls[view].total_seconds())} SECOND"
            for name in table.column_names:
                if name not in (KEYS[view], "event_timestamp"):
                    value = f"{view}.{name}"
                    selected.append(f"CASE WHEN {fresh} THEN {value} END AS {name}" if ttls[view] else value)
            known = f"f.{KEYS[view]} = {view}.{KEYS[view]} AND f.predict_at >= {view}.event_timestamp"
            joins.append(f"ASOF LEFT JOIN {view} ON {known}")
        sql = f"SELECT {', '.join(selected)} FROM flights f {' '.join(joins)} ORDER BY f.flight_id"
        return with_calendar(connection.sql(sql).to_arrow_table(), flights)


def with_calendar(joined: pa.Table, flights: pa.Table) -> pa.Table:
    """Append time of day and season, computed with NumPy instead of Feast."""
    ordered = flights.sort_by("flight_id")
    day = ordered["scheduled_minute"].to_numpy() / 1440 * 2 * np.pi
    year = ordered["day_of_year"].to_numpy() / 365.25 * 2 * np.pi
    for name, angle, function in (
        ("time_of_day_sin", day, np.sin),
        ("time_of_day_cos", day, np.cos),
        ("season_sin", year, np.sin),
        ("season_cos", year, np.cos),
    ):
        joined = joined.append_column(name, pa.array(function(angle), pa.float32()))
    return joined
