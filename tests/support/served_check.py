"""A job for the tests: check that online features equal the offline join's, and served predictions the model's own.

It is copied into the team's folder and runs on its cluster.

Compares features on the cluster for more than a thousand entity rows at the materialization instant, including unknown
and expired ones; then compares the service's answers over HTTP for some of them with the model's. Reports the counts.
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
        (name, row, want, actual)
        for name, column in served.items()
        for row, want, actual in zip(rows, offline[name].to_pylist(), column, strict=True)
        if not same(want, actual)
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
    """Distinct request rows of real flights, all scheduled at one instant; every tenth has an unknown plane and every
    fifteenth an unknown route. Fields that follow from the instant are computed here, not by the code under test."""
    connection = duckdb.connect()
    connection.register("flights", flights)
    result = connection.execute(
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
    rows = [{**dict(zip(names, values, strict=True)), **calendar} for values in result]
    for place, row in enumerate(rows):
        if place % 10 == 3:
            row["tailnum"] = f"N{place}XX"
        if place % 15 == 4:
            row["dest"], row["route"] = "ZZZ", f"{row['origin']}-ZZZ"
    return rows


def same(want: Any, actual: Any) -> bool:
    """True if equal, both missing, or floats that are equal in float32's precision."""
    if want is None or actual is None or (isinstance(want, float) and math.isnan(want)):
        return want is actual or (want is None) == (actual is None) or (isinstance(want, float) and actual is None)
    if isinstance(want, float) or isinstance(actual, float):
        return math.isclose(want, actual, rel_tol=1e-6, abs_tol=1e-6)
    return bool(want == actual)


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
