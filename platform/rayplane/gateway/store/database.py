"""One SQL database: engine, transactions, SQLAlchemy's errors as rayplane's. Knows only the table of the write lock."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, RootTransaction, create_engine, event, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from rayplane.errors import InvalidInput, StorageFull, Unavailable
from rayplane.gateway.store import tables
from rayplane.gateway.store.changes import Changes
from rayplane.nouns.base import utcnow

BUSY_SECONDS = 30
"""Seconds for which a connection waits for Postgres to answer."""
LOCK_SECONDS = 10.0
"""Seconds for which a writer waits for SQLite's lock of another process; less than clients wait for the gateway."""
PROBE_SECONDS = 0.5
"""Seconds for which a probe of SQLite's lock waits: a write of another process takes less."""

READERS_PATIENCE = 0.05
"""Seconds for which a thread that reads many rows of SQLite waits for another such thread."""

_WRITES = "rayplane_writes"
_NEXT_VERSION = update(tables.revision).values(value=tables.revision.c.value + 1).returning(tables.revision.c.value)


class Database:
    """A database by URL. Thread-safe; no I/O before the first call. Writers take turns, readers never wait."""

    def __init__(self, url: str, *, clock: Callable[[], datetime] = utcnow) -> None:
        self._url = _parse(url)
        self._clock = clock
        self._engine = _engine(self._url)
        self._local = threading.local()
        self.changes = Changes()
        """Waiters for objects; those of each object that a transaction wrote are woken after the commit."""
        # Threads of this process queue here: polling SQLite's file lock would let one of them starve.
        self._writer_lock = threading.RLock()
        self._waits_since: float | None = None
        """When (monotonic) the current writer began to wait for SQLite's lock; None if it has it."""
        # SQLite's driver releases the GIL at each row: threads that read many rows at once pass it back and forth, at
        # twice the CPU.
        self._reading = threading.Lock()

    def close(self) -> None:
        """Close every connection; the next use opens new ones."""
        self._engine.dispose()

    @contextlib.contextmanager
    def transaction(self, *, commit: bool = True) -> Iterator[None]:
        """Commit all writes of the block, or none of them. Nested blocks of one thread join the outermost.

        With ``commit=False`` it is a dry run: everything is rolled back. It must then be the outermost block.
        Raises Unavailable if the database can't be reached or another process keeps it locked, StorageFull if it has no
        room, InvalidInput for a value that it can't store.
        """
        if self._connection is not None:
            if not commit:
                raise RuntimeError("a dry run must be the outermost transaction")
            yield
            return
        with self._errors(), self._writer_queue(), self._engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: True})
            with self._begin(connection) as transaction:
                self._lock_for_writing(connection)
                self._local.connection, self._local.written = connection, set()
                try:
                    yield
                finally:
                    self._local.connection = None
                if not commit:
                    transaction.rollback()
                    self._local.written.clear()
        self.changes.tell(self._local.written)

    @contextlib.contextmanager
    def _write(self) -> Iterator[Connection]:
        with self.transaction():
            assert self._connection is not None
            yield self._connection

    @contextlib.contextmanager
    def _read(self) -> Iterator[Connection]:
        """The connection of the thread's transaction, so that it reads its own writes; else one for reading."""
        if self._connection is not None:
            yield self._connection
            return
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _read_many(self) -> Iterator[Connection]:
        """Like ``_read``, for many rows: on SQLite one thread after the other, but none waits long for a slow one."""
        alone = self._engine.dialect.name == "sqlite" and self._reading.acquire(timeout=READERS_PATIENCE)
        try:
            with self._read() as connection:
                yield connection
        finally:
            if alone:
                self._reading.release()

    @property
    def _connection(self) -> Connection | None:
        connection: Connection | None = getattr(self._local, "connection", None)
        return connection

    @contextlib.contextmanager
    def _writer_queue(self) -> Iterator[None]:
        if self._engine.dialect.name != "sqlite":
            yield
            return
        began = time.monotonic()
        while not self._writer_lock.acquire(timeout=0.2):
            # However many wait, none waits longer than the current writer does for another process.
            if self._waits_since is not None and time.monotonic() - began > LOCK_SECONDS:
                raise self._locked()
        try:
            self._waits_since = time.monotonic()
            yield
        finally:
            self._waits_since = None
            self._writer_lock.release()

    def _begin(self, connection: Connection) -> RootTransaction:
        transaction = connection.begin()  # on SQLite this waits for its lock, as opening the connection may
        self._waits_since = None
        return transaction

    def check_writable(self) -> None:
        """Raise Unavailable if another process keeps SQLite locked, so that nothing can be written. Changes nothing.

        Other databases have no lock of that kind.
        """
        if self._engine.dialect.name != "sqlite" or self._connection is not None:
            return
        since = self._waits_since
        if since is not None and time.monotonic() - since > PROBE_SECONDS:
            raise self._locked()
        if not self._writer_lock.acquire(blocking=False):
            return  # a writer of this process has the lock, or has just asked for it
        try:
            self._probe()
        finally:
            self._writer_lock.release()

    def _probe(self) -> None:
        with self._errors(), self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"PRAGMA busy_timeout = {int(PROBE_SECONDS * 1000)}")
            try:
                driver.execute("BEGIN IMMEDIATE")
                driver.execute("ROLLBACK")
            except sqlite3.OperationalError as exc:
                raise self._translated(exc) from exc
            finally:
                driver.execute(f"PRAGMA busy_timeout = {int(LOCK_SECONDS * 1000)}")

    def _lock_for_writing(self, connection: Connection) -> None:
        # On SQLite BEGIN IMMEDIATE has taken the write lock already. On Postgres it is the lock of this row, taken
        # first in every writing transaction, so that writers can't deadlock and versions become visible in order.
        if connection.dialect.name != "sqlite":
            connection.execute(select(tables.revision.c.value).with_for_update())

    def _note_write(self, uid: str) -> None:
        """Have the object's waiters woken once the thread's transaction is committed."""
        self._local.written.add(uid)

    def _next_version(self, connection: Connection) -> int:
        return int(connection.execute(_NEXT_VERSION).scalar_one())

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError, PoolTimeout) as exc:
            raise self._translated(exc) from exc
        except DBAPIError as exc:
            if exc.connection_invalidated or type(exc) is DatabaseError:  # the latter: not a database, or damaged
                raise self._translated(exc) from exc
            raise

    def _translated(self, exc: Exception) -> Exception:
        where = self._url.render_as_string(hide_password=True)
        said = str(getattr(exc, "orig", exc)).strip()
        if said.startswith("database is locked") or "table is locked" in said:
            return self._locked()
        if any(words in said for words in ("disk is full", "No space left", "could not extend file")):
            return StorageFull(
                f"The database {where} has no room left.",
                remedy="Free some space there, then try again: nothing was half-written.",
            )
        remedy = "Run the gateway's migration: start it with this database."
        if "no such table" not in said:
            remedy = "Check that it runs and that RAYPLANE_DATABASE_URL names it."
        return Unavailable(f"The database {where} does not answer: {said}.", remedy=remedy)

    def _locked(self) -> Unavailable:
        return Unavailable(
            f"The database {self._url.render_as_string(hide_password=True)} is kept locked by another process.",
            remedy="Nothing was written: try again. If it lasts, end what holds it, such as a backup or a shell.",
        )


def prepare_file(url: URL) -> None:
    """Create a SQLite database's folder (0700) and its file (0600); SQLite would create one that others can read."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600, exist_ok=True)


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as exc:
        raise InvalidInput(
            "The database's URL can't be understood.",
            remedy="Write sqlite:////path/to/file or postgresql+psycopg://user@host/db.",
        ) from exc
    if url.get_backend_name() == "sqlite" and (not url.database or ":memory:" in url.database):
        raise InvalidInput(
            "A SQLite database in memory is lost with the gateway.", remedy="Name a file: sqlite:////path/to/file."
        )
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    return url


def _engine(url: URL) -> Engine:
    engine = _new_engine(url)
    event.listen(engine, "handle_error", _on_error)
    return engine


def _new_engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url, json_serializer=to_json, connect_args={"timeout": LOCK_SECONDS}, pool_size=16, max_overflow=48
        )
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
        return engine
    return create_engine(
        url,
        json_serializer=to_json,
        connect_args={"connect_timeout": BUSY_SECONDS},
        pool_pre_ping=True,
        pool_size=16,
        max_overflow=16,
    )


def _on_sqlite_connect(connection: Any, _: Any) -> None:
    # The driver must not begin transactions by itself: it would begin them deferred, and when a deferred transaction
    # first writes it fails at once, without waiting, if another process wrote in the meantime.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()


def _on_error(context: ExceptionContext) -> Exception | None:
    """Make InvalidInput of a value that no column can store: a NUL on Postgres, a lone surrogate, a 70-bit number."""
    original = context.original_exception
    if isinstance(context.sqlalchemy_exception, DataError) or isinstance(original, UnicodeEncodeError | OverflowError):
        return InvalidInput(
            "The database can't hold a value of this request.",
            remedy="Leave out control characters, and numbers of more than 18 digits.",
        )
    return None


def _on_sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def to_json(value: Any) -> str:
    """JSON that every database accepts: NaN and the infinities, which JSON lacks, become null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
