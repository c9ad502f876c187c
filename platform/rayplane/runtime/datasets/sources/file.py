"""The `file` scheme of sources: ``file:///path`` of a table that every node of the cluster can read."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from rayplane.errors import InvalidInput, NotFound, Unsupported
from rayplane.runtime.datasets.sources.tables import SUFFIXES, read_table


class FileSource:
    """Reads a file of .parquet, .csv, .csv.gz or .csv.zip."""

    def read(self, uri: str, types: pa.Schema | None) -> pa.Table:
        """All rows of the file."""
        parts = urlsplit(uri)
        path = unquote(parts.path)
        if parts.netloc or not path.startswith("/"):
            raise InvalidInput(f"Source '{uri}' is not an absolute path.", remedy="Write it as file:///path.")
        if not path.endswith(SUFFIXES):
            raise Unsupported(f"The format of source '{uri}' is not known.", remedy=f"Known: {', '.join(SUFFIXES)}.")
        file = Path(path)
        if not file.is_file():
            raise NotFound(
                f"Source '{uri}' is not there.", remedy="Name a file that every node of the cluster can read."
            )
        return read_table(file, types)
