"""Compare the point-in-time join of the platform's Feast store with that of Feast's own DuckDB store, on the same rows.

python -m benchmarks.point_in_time_join [--days N] [--repeat N]

Prints JSON. Both stores read the same registry and the same files, and their turns alternate. It needs no platform.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, RepoConfig

from features import definitions
from jobs import flights_data, ingest, training_set
from rayplane.nouns.job import FeastAccess
from rayplane.runtime.features import project
from tests.data import slices
from tests.unit.jobs import flight_tables

Join = Callable[[pa.Table], pa.Table]


def stores(folder: Path, views: Mapping[str, pa.Table]) -> tuple[FeatureStore, FeatureStore]:
    """The platform's store and Feast's own over ``views``; they differ only in the offline store."""
    for view, table in views.items():
        pq.write_table(table, folder / f"{definitions.SOURCES[view]}.parquet")
    access = FeastAccess(
        project="flights", registry_url=f"sqlite:///{folder}/registry.db", online_path=str(folder / "online.db")
    )
    configured = project.configuration(access)
    ours = FeatureStore(config=RepoConfig(**configured, repo_path=folder))
    ours.apply(definitions.build(lambda dataset: str(folder / f"{dataset}.parquet")))
    stock = FeatureStore(config=RepoConfig(**configured | {"offline_store": {"type": "duckdb"}}, repo_path=folder))
    return ours, stock


def first_days(raw: Mapping[str, pa.Table], days: int) -> dict[str, pa.Table]:
    """The raw tables, those with dates cut to the year's first ``days`` days."""

    def cut(table: pa.Table) -> pa.Table:
        until = f"make_date(year, month, day) < make_date(year, 1, 1) + {days}"
        return flights_data.query(f"FROM rows WHERE {until}", rows=table).cast(table.schema)

    return {name: cut(table) if name in ingest.SLICED else table for name, table in raw.items()}


def timed(join: Join, rows: pa.Table) -> tuple[float, pa.Table]:
    """Run one join; returns its seconds and result."""
    began = time.perf_counter()
    table = join(rows)
    return time.perf_counter() - began, table


def measure(days: int, repeat: int) -> dict[str, Any]:
    """Time both joins in turns, and return the figures."""
    load = os.getloadavg()[0]
    prepared = flight_tables.prepared(first_days(slices.raw_tables(None), days))
    flights = prepared["flights"]
    rows = training_set.entity_rows(flights)
    with tempfile.TemporaryDirectory() as folder:
        both = stores(Path(folder), flight_tables.features(prepared))
        joins = [flight_tables.feast_join(store) for store in both]
        for join in joins:
            join(rows.slice(0, 100))  # a process imports and reads some things once, which is not part of the join
        turns = [[timed(join, rows) for join in joins] for _ in range(repeat)]
    ours, stock = (statistics.median(turn[index][0] for turn in turns) for index in range(2))
    return {
        "figure": "point-in-time join of the flights with all their features",
        "days": days,
        "rows": rows.num_rows,
        "ours_seconds": round(ours, 3),
        "stock_seconds": round(stock, 3),
        "ratio": round(stock / ours, 2),
        "equal": same(flights, *(table for _, table in turns[-1])),
        "load": round(load, 2),
    }


def same(flights: pa.Table, one: pa.Table, other: pa.Table) -> bool:
    """True if both joins make the same training set of the flights."""
    expected = training_set.training_set(flights, lambda _: other)
    return bool(training_set.training_set(flights, lambda _: one).equals(expected))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the point-in-time join.")
    parser.add_argument("--days", type=int, default=60, help="The year's first days whose flights are joined.")
    parser.add_argument("--repeat", type=int, default=3, help="Turns of each store; the figure is their median.")
    asked = parser.parse_args()
    if asked.days < 1 or asked.repeat < 1:
        parser.error("--days and --repeat must be at least 1")
    print(json.dumps(measure(asked.days, asked.repeat)))


if __name__ == "__main__":
    main()
