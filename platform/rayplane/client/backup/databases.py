"""Copy SQLite files that other processes write to: SQLite's own backup takes one instant, including the WAL."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from rayplane.errors import InvalidData, StorageFull, Unavailable

PATIENCE = 60.0
"""Seconds that a copy waits for a writer that keeps the database locked."""
_FULL = ("disk is full", "disk I/O error")


def copy(source: Path, target: Path) -> str | None:
    """Copy a database as of one instant to a new 0600 file; return the revision of its schema, if Alembic records one.

    Raises Unavailable if the database stays locked, InvalidData if it is none, StorageFull.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    deadline = time.monotonic() + PATIENCE

    def on_progress(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise TimeoutError

    try:
        # Mode rw although nothing is changed: SQLite must make its -shm file to read the last writes from the WAL.
        with (
            closing(sqlite3.connect(f"file:{_quoted(source)}?mode=rw", uri=True, timeout=PATIENCE)) as origin,
            closing(sqlite3.connect(target)) as backup,
        ):
            origin.backup(backup, pages=-1, progress=on_progress, sleep=0.05)
            # Without a WAL the copy is one file.
            backup.execute("PRAGMA journal_mode=DELETE").fetchone()
            return _revision(backup)
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
    table = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'alembic_version%'").fetchone()
    if table is None:
        return None
    row = connection.execute(f"SELECT version_num FROM {table[0]}").fetchone()  # a name from the line above
    return None if row is None else str(row[0])


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
