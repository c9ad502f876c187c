"""Copy SQLite files that other processes write to: SQLite's own backup takes one instant, including the WAL."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rayplane.errors import InvalidData, StorageFull, Unavailable

PATIENCE = 60.0
"""Seconds that a copy waits for a writer that keeps the database locked."""
_FULL = ("disk is full", "disk I/O error")
_FULL_CODES = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC")


def copy(source: Path, target: Path) -> str | None:
    """Copy a database as of one instant to a new 0600 file; return the revision of its schema, if Alembic records one.

    Raises Unavailable if the database stays locked, InvalidData if it is none, StorageFull.
    """
    # Mode rw although nothing is changed: SQLite must make its -shm file to read the last writes from the WAL.
    return _copy(source, target, mode="rw", deadline=time.monotonic() + PATIENCE)


def copy_of_a_team(folder: int, name: str, path: Path, target: Path, *, deadline: float) -> None:
    """Copy a database that a team may write: ``path``, which is ``name`` in the folder of this open descriptor.

    SQLite opens it read-only, since with write access it obeys a journal beside the file, and a crafted one has it
    delete any file. Raises InvalidData if the database has such a journal, is damaged, is reached by a link or has
    another name, Unavailable if it is locked until the ``deadline``, StorageFull.
    """
    _require_own(folder, name, path)
    before = _open_files()

    def check() -> None:
        _require_own(folder, name, path)
        beside = {_identity(folder, f"{name}{end}") for end in ("", "-wal", "-shm", "-journal")}
        opened = {identity for number, identity in _open_files().items() if before.get(number) != identity}
        if _identity(folder, name) not in opened or not opened <= beside | {_identity_of(target)}:
            raise _moved(path)

    _copy(path, target, mode="ro", deadline=deadline, check=check)


def _copy(
    source: Path, target: Path, *, mode: str, deadline: float, check: Callable[[], None] | None = None
) -> str | None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    patience = max(0.0, deadline - time.monotonic())

    def on_progress(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise TimeoutError

    try:
        with (
            closing(sqlite3.connect(f"file:{_quoted(source)}?mode={mode}", uri=True, timeout=patience)) as origin,
            closing(sqlite3.connect(target)) as backup,
        ):
            if check is not None:
                check()
            origin.backup(backup, pages=-1, progress=on_progress, sleep=0.05)
            if check is not None:
                check()
            # Without a WAL the copy is one file.
            backup.execute("PRAGMA journal_mode=DELETE").fetchone()
            # A team's database may have a view of that name, which would run as long as the team likes.
            return _revision(backup) if check is None else None
    except TimeoutError as exc:
        raise Unavailable(
            f"The database '{source}' was kept locked for {patience:.0f} s.", remedy="Try again; see what holds it."
        ) from exc
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorname", "")
        # A team can cause errors of reading, such as by truncating the file meanwhile.
        if any(words in str(exc) for words in _FULL) and (check is None or code in _FULL_CODES):
            raise StorageFull(
                f"No room left to copy '{source}' to '{target.parent}'.", remedy="Free some space there, or use --to."
            ) from exc
        raise InvalidData(
            f"'{source}' can't be read as a SQLite database: {exc}.", remedy="See that it is whole, then try again."
        ) from exc


def _require_own(folder: int, name: str, path: Path) -> None:
    """Raise InvalidData unless ``path`` leads without a link to ``name`` in the folder: a file without another name."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        by_path = os.stat(path, follow_symlinks=False)
        linked = os.path.realpath(path.parent) != str(path.parent)
    except OSError as exc:
        raise _moved(path) from exc
    same = os.path.samestat(status, by_path)
    if linked or not same or not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise _moved(path)


def _moved(path: Path) -> InvalidData:
    return InvalidData(
        f"'{path}' is no regular file with this one name, or was replaced while it was read.",
        remedy="See who puts links there.",
    )


def _open_files() -> dict[int, tuple[int, int]]:
    """(device, inode) of each regular file that this process has open, by its descriptor."""
    files = {}
    for number in map(int, os.listdir("/dev/fd")):
        try:
            status = os.fstat(number)
        except OSError:  # the descriptor of the listing itself
            continue
        if stat.S_ISREG(status.st_mode):
            files[number] = (status.st_dev, status.st_ino)
    return files


def _identity(folder: int, name: str) -> tuple[int, int]:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return (-1, -1)
    except OSError as exc:
        raise _moved(Path(name)) from exc
    return (status.st_dev, status.st_ino)


def _identity_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return (status.st_dev, status.st_ino)


def _revision(connection: sqlite3.Connection) -> str | None:
    table = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'alembic_version%'").fetchone()
    if table is None:
        return None
    row = connection.execute(f"SELECT version_num FROM {table[0]}").fetchone()  # a name from the line above
    return None if row is None else str(row[0])


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
