"""The content hash of a table: equal for equal rows, regardless of their order and Arrow layout. Pure.

SHA-256 over the schema (names and logical types, columns sorted by name), the number of rows, and the rows sorted by
all columns. Chunks, dictionaries, the width of string offsets and the order of rows and columns are layout; types,
nulls and duplicates are content. The hashed bytes are part of the platform's contract: changing them changes the
version of every dataset (see VERSION).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from rayplane.errors import InvalidData

pc: Any = pyarrow.compute  # its stubs lack types that it supports

VERSION = b"rayplane-rows-1"
"""Name of these rules; hashed first, so that hashes by other rules can never be equal."""


def content_hash(table: pa.Table) -> str:
    """SHA-256 (hex, 64 digits) of a table's rows. Raises InvalidData as ``canonical`` does."""
    rows = canonical(table)
    names = sorted(rows.column_names)
    rows = rows.select(names)
    if rows.num_rows > 1 and names:
        rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in names]))
    digest = hashlib.sha256(VERSION)
    _feed(digest, len(names).to_bytes(8, "little"))
    _feed(digest, rows.num_rows.to_bytes(8, "little"))
    for field in rows.schema:
        _feed(digest, field.name.encode())
        _feed(digest, type_name(field.type).encode())
        _feed_column(digest, rows[field.name])
    return digest.hexdigest()


def canonical(table: pa.Table) -> pa.Table:
    """Convert a table to one Arrow type per logical type, keeping the order of rows and columns, without metadata.

    Strings become large strings, dictionaries are decoded, timestamps are in microseconds (UTC if they have a zone),
    -0.0 becomes 0.0, and all NaNs the same NaN. Raises InvalidData, naming the column, for a duplicate name, a nested
    type, or instants finer than a microsecond.
    """
    duplicates = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if duplicates:
        raise InvalidData(f"Column '{duplicates[0]}' occurs more than once.", remedy="Give every column its own name.")
    columns = [_canonical(name, table[name]) for name in table.column_names]
    if not columns:
        return pa.table({})
    return pa.table(columns, names=table.column_names)


def type_name(type_: pa.DataType) -> str:
    """Name of a canonical Arrow type's logical type: large strings and binaries are named like small ones."""
    if pa.types.is_large_string(type_):
        return "string"
    if pa.types.is_large_binary(type_):
        return "binary"
    return str(type_)


def _canonical(name: str, column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    target = _target(name, column.type)
    if column.type != target:
        try:
            column = column.cast(target)
        except pa.ArrowInvalid as exc:
            raise InvalidData(
                f"Column '{name}' can't be stored as {target}: {exc}.",
                remedy="Round its instants to microseconds; finer ones are lost in joins.",
            ) from exc
    if pa.types.is_floating(target):
        column = _normal_floats(column, target)
    return column


def _target(name: str, type_: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us", tz="UTC" if type_.tz else None)
    if pa.types.is_large_string(type_) or pa.types.is_string(type_) or pa.types.is_string_view(type_):
        return pa.large_string()
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.large_binary()
    if pa.types.is_nested(type_) or isinstance(type_, pa.ExtensionType) or pa.types.is_run_end_encoded(type_):
        raise InvalidData(
            f"Column '{name}' has the type {type_}, whose rows have no order.",
            remedy="Spread it over plain columns, or write it as a string of JSON.",
        )
    return type_


def _normal_floats(column: pa.ChunkedArray[Any], type_: pa.DataType) -> pa.ChunkedArray[Any]:
    # x + 0.0 turns -0.0 into 0.0 and leaves every other value alone; NaNs can differ in sign and payload bits.
    zero, nan = pa.scalar(0.0, pa.float64()).cast(type_), pa.scalar(float("nan"), pa.float64()).cast(type_)
    if pa.types.is_float16(type_):  # Arrow computes nothing in half precision
        return pa.chunked_array([_normal_halves(chunk) for chunk in column.chunks], type=type_)
    normal: pa.ChunkedArray[Any] = pc.if_else(pc.fill_null(pc.is_nan(column), False), nan, pc.add(column, zero))
    return normal


def _normal_halves(chunk: pa.Array[Any]) -> pa.Array[Any]:
    values = chunk.to_numpy(zero_copy_only=False).astype(np.float16) + np.float16(0)
    values = np.where(np.isnan(values), np.float16("nan"), values)
    return pa.array(values, type=pa.float16(), mask=np.asarray(chunk.is_null()))


def _feed(digest: Any, data: Any) -> None:
    view = memoryview(data)
    digest.update(view.nbytes.to_bytes(8, "little"))
    digest.update(view)


def _feed_column(digest: Any, column: pa.ChunkedArray[Any]) -> None:
    array: Any = column.combine_chunks()
    # pyarrow leaves a column chunked if it is too large for one array, or has no chunk.
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=column.type)
    if pa.types.is_null(array.type):
        return
    _feed(digest, np.packbits(np.asarray(array.is_valid())))
    if pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type):
        _feed_bytes(digest, array)
    elif pa.types.is_boolean(array.type):
        _feed(digest, np.packbits(np.asarray(pc.fill_null(array, False))))
    else:
        _feed_fixed(digest, array)


def _feed_bytes(digest: Any, array: Any) -> None:
    # Lengths first, then all bytes: so "ab","c" and "a","bc" differ. The bytes under a null are not content.
    array = pc.fill_null(array.cast(pa.large_binary()), b"")
    _feed(digest, np.asarray(pc.binary_length(array), dtype=np.int64))
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    if not len(array) or data is None:
        _feed(digest, b"")
        return
    _feed(digest, memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _feed_fixed(digest: Any, array: Any) -> None:
    if array.null_count:
        width = array.type.byte_width
        mask = np.asarray(array.is_valid())
        values = _cells(array, width).copy()
        values[~mask] = 0  # the bytes under a null are not content
        _feed(digest, np.ascontiguousarray(values).reshape(-1))
        return
    _feed(digest, np.ascontiguousarray(_cells(array, array.type.byte_width)).reshape(-1))


def _cells(array: Any, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    data = array.buffers()[1]
    if data is None:
        return np.zeros((len(array), width), dtype=np.uint8)
    start = array.offset * width
    cells = np.frombuffer(data, dtype=np.uint8)[start : start + len(array) * width]
    return cells.reshape(len(array), width)
