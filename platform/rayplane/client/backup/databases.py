"""Copies of SQLite files that others write to meanwhile: by SQLite's own backup, of one instant, its WAL included."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from rayplane.errors import InvalidData, StorageFull, Unavailable

PATIENCE = 60.0
"""Seconds for which a copy waits for a writer that keeps the database locked."""
_FULL = ("disk is full", "disk I/O error")


def copy(source: Path, target: Path) -> str | None:
    """Copy a database as of one instant to a new 0600 file; the revision of its schema, if Alembic keeps one.

    Raises Unavailable if it stays locked, InvalidData if it is no database, StorageFull.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    deadline = time.monotonic() + PATIENCE

    def waited(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise TimeoutError

    try:
        # Reading, but for SQLite's own files beside it: without them the last writes in its WAL could not be read.
        with (
            closing(sqlite3.connect(f"file:{_quoted(source)}?mode=rw", uri=True, timeout=PATIENCE)) as origin,
            closing(sqlite3.connect(target)) as made,
        ):
            origin.backup(made, pages=-1, progress=waited, sleep=0.05)
            # The copy is one file: no reader of it needs another beside it.
            made.execute("PRAGMA journal_mode=DELETE").fetchone()
            return _revision(made)
    except TimeoutError as exc:
        raise Unavailable(
            f"The database '{source}' was kept locked for {PATIENCE:.0f} s.", remedy="Try again; see what holds it."
        ) from exc
    except sqlite3.Error as exc:
        if any(words in str(exc) for words in _FULL):
            raise StorageFull(
                f"No room left to copy '{source}' to '{target.parent}'.", remedy="Free some space there, or use --to."
            ) from exc
        raise InvalidData(
            f"'{source}' can't be read as a SQLite database: {exc}.", remedy="See that it is whole, then try again."
        ) from exc


def _revision(connection: sqlite3.Connection) -> str | None:
    found = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'alembic_version%'").fetchone()
    if found is None:
        return None
    row = connection.execute(f"SELECT version_num FROM {found[0]}").fetchone()  # a name from the line above
    return None if row is None else str(row[0])


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
