"""The encoding that training's check, batch scoring and serving share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.errors import InvalidData
from rayplane.runtime.models.card import FeatureColumn
from rayplane.runtime.models.encoding import Encoding

ENCODING = Encoding([FeatureColumn(name="carrier", categories=["AA", "UA"]), FeatureColumn(name="wind")])


def test_a_text_becomes_its_index_and_a_missing_or_unknown_one_nan() -> None:
    matrix = ENCODING.rows({"carrier": ["UA", "XX", None], "wind": [1, None, 2.5], "other": [0, 0, 0]}, 3)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.array([[1, 1], [np.nan, np.nan], [np.nan, 2.5]], np.float32))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["AA", "UA", "XX", "", None]),
            st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-(2**40), 2**40),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_rows_are_encoded_as_tables_are(rows: list[tuple[str | None, float | int | None]]) -> None:
    columns = {"carrier": [row[0] for row in rows], "wind": [row[1] for row in rows]}
    table = pa.table(
        {
            "carrier": pa.array(columns["carrier"], pa.string()),
            "wind": pa.array([None if v is None else float(v) for v in columns["wind"]], pa.float64()),
        }
    )
    np.testing.assert_array_equal(ENCODING.rows(columns, len(rows)), ENCODING.matrix(table))


def test_a_missing_feature_is_named_in_the_error() -> None:
    with pytest.raises(InvalidData, match="wind"):
        ENCODING.rows({"carrier": ["AA"]}, 1)
    with pytest.raises(InvalidData, match="carrier, wind"):
        ENCODING.matrix(pa.table({"x": [1]}))


def test_a_text_in_a_numeric_feature_is_refused_naming_the_feature() -> None:
    with pytest.raises(InvalidData, match="wind"):
        ENCODING.rows({"carrier": ["AA"], "wind": ["strong"]}, 1)
