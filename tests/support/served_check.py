"""A job for the tests: are online features the offline join's, and served predictions the model's own?

It is copied into the team's folder and runs on its cluster.

Compares on the cluster, for more than a thousand entity rows at the materialization instant, unknown and expired ones
among them; then asks the service for some of them over HTTP and the model itself. Reports the counts.
"""

from __future__ import annotations

import json
import math
import urllib.request
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

ROWS = 1_500
ASKED = 200


def main() -> None:
    """Compare and report."""
    from features import definitions
    from rayplane.runtime import context, datasets, features, models, report

    ctx = context.current()
    instant = datetime.fromisoformat(ctx.parameters["materialized_at"])
    features.apply(definitions, sources=definitions.SOURCES)
    rows = entities(datasets.read("flights"), scheduled=instant + timedelta(hours=1))
    table = pa.Table.from_pylist(rows)
    instants = pa.array([instant] * len(rows), pa.timestamp("us", tz="UTC"))
    offline = features.training_frame(table.append_column("event_timestamp", instants), definitions.FEATURE_SERVICE)
    served = features.online(definitions.FEATURE_SERVICE, rows, at=instant)
    different = [
        (name, row, want, got)
        for name, column in served.items()
        for row, want, got in zip(rows, offline[name].to_pylist(), column, strict=True)
        if not same(want, got)
    ]
    empty = [name for name, column in served.items() if all(value is None for value in column)]
    nulls = sum(value is None for column in served.values() for value in column)
    known = sum(value is not None for column in served.values() for value in column)

    instances = [{k: row[k] for k in ("origin", "dest", "carrier", "tailnum", "distance")} for row in rows[:ASKED]]
    for instance in instances:
        instance["scheduled_at"] = (instant + timedelta(hours=1)).isoformat()
    answer = ask(ctx.parameters["service_url"], instances)
    own = models.load(f"models:/{answer['model']}").score(offline.slice(0, ASKED))
    off = [abs(a - b) for a, b in zip(answer["predictions"], own.tolist(), strict=True)]
    report.output(
        "compared",
        {"rows": len(rows), "features": len(served), "different": len(different), "nulls": nulls, "known": known,
         "empty": empty,         "predictions": len(off), "largest_difference": max(off)},
    )  # fmt: skip
    for case in different[:10]:
        print("different:", case)


def entities(flights: pa.Table, *, scheduled: datetime) -> list[dict[str, Any]]:
    """Distinct request rows of real flights, all scheduled at one instant; every tenth with a plane and every fifteenth
    with a route that is unknown. What follows from the instant is computed here, not by the code under test."""
    connection = duckdb.connect()
    connection.register("flights", flights)
    found = connection.execute(
        f"""
        SELECT * FROM (
            SELECT origin, dest, carrier, route, tailnum, max(distance) AS distance FROM flights
            WHERE tailnum IS NOT NULL GROUP BY ALL
        ) ORDER BY hash(origin, dest, carrier, tailnum) LIMIT {ROWS}
        """
    ).fetchall()
    local = scheduled.astimezone(ZoneInfo("America/New_York"))
    calendar = {
        "scheduled_minute": local.hour * 60 + local.minute,
        "weekday": local.isoweekday(),
        "day_of_year": local.timetuple().tm_yday,
        "month": local.month,
    }
    names = ("origin", "dest", "carrier", "route", "tailnum", "distance")
    rows = [{**dict(zip(names, values, strict=True)), **calendar} for values in found]
    for place, row in enumerate(rows):
        if place % 10 == 3:
            row["tailnum"] = f"N{place}XX"
        if place % 15 == 4:
            row["dest"], row["route"] = "ZZZ", f"{row['origin']}-ZZZ"
    return rows


def same(want: Any, got: Any) -> bool:
    """Equal, both missing, or floats within what float32 keeps."""
    if want is None or got is None or (isinstance(want, float) and math.isnan(want)):
        return want is got or (want is None) == (got is None) or (isinstance(want, float) and got is None)
    if isinstance(want, float) or isinstance(got, float):
        return math.isclose(want, got, rel_tol=1e-6, abs_tol=1e-6)
    return bool(want == got)


def ask(url: str, instances: list[dict[str, Any]]) -> dict[str, Any]:
    """The service's answer over HTTP."""
    request = urllib.request.Request(
        url, json.dumps({"instances": instances}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


if __name__ == "__main__":
    main()
