"""Statistics of columns of each type, as JSON."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from rayplane.runtime.datasets.stats import LONGEST_TEXT, statistics


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None, 3, 3]), {"nulls": 1, "distinct": 2, "min": 1, "max": 3, "mean": pytest.approx(7 / 3)}),
        (pa.array([0.5, float("nan"), None]), {"nulls": 2, "distinct": 1, "min": 0.5, "max": 0.5, "mean": 0.5}),
        (pa.array([True, False, None]), {"nulls": 1, "distinct": 2, "min": False, "max": True, "mean": 0.5}),
        (pa.array(["b", "a", "b"]), {"nulls": 0, "distinct": 2, "min": "a", "max": "b"}),
        (pa.array([b"b"]), {"nulls": 0, "distinct": 1}),
        (pa.array([None, None]), {"nulls": 2, "distinct": 0}),
        (pa.array([None], pa.float64()), {"nulls": 1, "distinct": 0}),
        (
            pa.array([0, 1], pa.timestamp("us", tz="UTC")),
            {"nulls": 0, "distinct": 2, "min": "1970-01-01T00:00:00Z", "max": "1970-01-01T00:00:00.000001Z"},
        ),
        (pa.array([date(2013, 1, 1)]), {"nulls": 0, "distinct": 1, "min": "2013-01-01", "max": "2013-01-01"}),
        (pa.array([timedelta(seconds=2)]), {"nulls": 0, "distinct": 1}),
        (pa.array([Decimal("1.50")]), {"nulls": 0, "distinct": 1, "min": "1.50", "max": "1.50"}),
        (pa.array(["x" * (LONGEST_TEXT + 1)]), {"nulls": 0, "distinct": 1}),
    ],
)
def test_a_column_gets_the_statistics_that_apply_to_its_type(column: pa.Array, expected: dict[str, Any]) -> None:
    figures = statistics(pa.table({"a": column}))["a"]
    assert figures == expected
    json.dumps(figures, allow_nan=False)


def test_infinities_are_left_out_since_json_has_none() -> None:
    figures = statistics(pa.table({"a": [1.0, float("inf")]}))["a"]
    assert figures == {"nulls": 0, "distinct": 2, "min": 1.0}
    json.dumps(figures, allow_nan=False)
