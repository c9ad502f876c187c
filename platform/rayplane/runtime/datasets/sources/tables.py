"""Files of tables: Parquet, and CSV plain, gzipped or zipped."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".csv.zip")
_LARGEST_BLOCK = 2**31 - 1


def read_table(path: Path, types: pa.Schema | None) -> pa.Table:
    """All rows of a file with one of ``SUFFIXES``. In CSV, ``types`` sets columns' types, and an empty cell and ``NA``
    are null.
    """
    return pq.read_table(path) if path.name.endswith(".parquet") else _read_csv(path, types)


def _read_csv(path: Path, types: pa.Schema | None) -> pa.Table:
    # One block, so that a column's type is inferred from all its rows; otherwise it would depend on their order.
    data = _bytes(path)
    stream: Any = pa.BufferReader(data)
    iso8601: Any = csv.ISO8601
    return csv.read_csv(
        stream,
        read_options=csv.ReadOptions(block_size=min(max(data.size, 1), _LARGEST_BLOCK)),
        convert_options=csv.ConvertOptions(
            column_types=types, null_values=["", "NA"], strings_can_be_null=True, timestamp_parsers=[iso8601]
        ),
    )


def _bytes(path: Path) -> pa.Buffer:
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if len(members) != 1:
                raise zipfile.BadZipFile(f"the archive holds {len(members)} files, not one")
            return pa.py_buffer(archive.read(members[0]))
    content = path.read_bytes()
    return pa.py_buffer(gzip.decompress(content) if path.name.endswith(".gz") else content)
