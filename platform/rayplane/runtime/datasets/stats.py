"""Statistics of a table's columns, as plain JSON. Pure."""

from __future__ import annotations

import math
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute  # its stubs lack types that it supports

LONGEST_TEXT = 256
"""Characters of a minimum or maximum; a longer one is left out, since a shortened one would be wrong."""

_UNORDERED = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_duration)
"""Types for which Arrow computes no minimum, or whose minimum JSON can't represent."""


def statistics(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Column -> {nulls, distinct, min, max, mean}: those that apply to its type.

    Nulls and NaN count in ``nulls`` and in no other figure.
    """
    return {name: _column(table[name]) for name in table.column_names}


def _column(column: pa.ChunkedArray[Any]) -> dict[str, Any]:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.fill_null(pc.is_nan(column), False), pa.scalar(None, column.type), column)
    figures: dict[str, Any] = {"nulls": column.null_count}
    if pa.types.is_null(column.type):
        return {**figures, "distinct": 0}
    figures["distinct"] = pc.count_distinct(column, mode="only_valid").as_py()
    if figures["distinct"] == 0:
        return figures
    if not any(unordered(column.type) for unordered in _UNORDERED):
        ends = pc.min_max(column).as_py()
        figures.update({end: plain for end in ("min", "max") if (plain := _plain(ends[end])) is not None})
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        mean = pc.mean(column).as_py()
        if mean is not None and math.isfinite(mean):
            figures["mean"] = mean
    return figures


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return None
    return value
