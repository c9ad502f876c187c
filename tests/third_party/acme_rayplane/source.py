"""A data source: a table of an SQLite database, ``sqlite:///path/to/file.db#table``."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from rayplane.errors import InvalidData, NotFound


class SQLiteSource:
    """Reads all rows of one table."""

    def read(self, uri: str, types: pa.Schema | None) -> pa.Table:
        """All rows of the table. Its columns' types are those of the values; ``open_source`` applies ``types``."""
        del types
        parts = urlsplit(uri)
        table = unquote(parts.fragment).replace('"', '""')
        try:
            with closing(sqlite3.connect(f"file:{parts.path}?mode=ro", uri=True)) as database:
                rows = database.execute(f'SELECT * FROM "{table}"')
                names = [column[0] for column in rows.description]
                columns = list(zip(*rows, strict=True)) or [()] * len(names)
        except sqlite3.OperationalError as exc:
            raise NotFound(f"Source '{uri}' is not there: {exc}.", remedy="Name a database and its table.") from exc
        except sqlite3.DatabaseError as exc:
            raise InvalidData(f"Source '{uri}' can't be read: {exc}.", remedy="Name a database of SQLite.") from exc
        return pa.table({name: list(values) for name, values in zip(names, columns, strict=True)})
