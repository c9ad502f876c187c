"""Write all rows to text files as one consistent snapshot, and read them into an empty SQLite or Postgres database.

Each table is a file of JSON lines: a header (columns, counter), then one array per row. Values are written as the
database stores them, not as models: instants as UTC text of fixed width, JSON as its exact text, which keeps the order
of keys and large numbers. So the schema may be of any known revision, and a restored database is equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import JSON, Boolean, Connection, DateTime, inspect, text
from sqlalchemy.types import TypeEngine

from rayplane.errors import Conflict, Failed, InvalidData, NotFound
from rayplane.gateway.store import migrate
from rayplane.gateway.store.database import Database, prepare_file

SUMMARY = "snapshot.json"
"""The file beside the tables' files that summarizes them."""
_VERSIONS = "alembic_version"
_BATCH = 500
_STREAMED = {"stream_results": True, "max_row_buffer": _BATCH}


@dataclass(frozen=True)
class TableCount:
    """Summary of one table's file."""

    rows: int
    sha256: str
    """Hash of the file: equal tables have equal files."""


@dataclass(frozen=True)
class SnapshotSummary:
    """Summary of a snapshot."""

    revision: str
    """Revision of the schema."""
    database: str
    """The kind of database from which it was taken."""
    tables: dict[str, TableCount]


@dataclass(frozen=True)
class _Column:
    name: str
    kind: str
    """json, instant, boolean or plain: the form in which its values are written."""
    type: str
    """The database's name of the type, for casts."""


class Snapshot(Database):
    """Writes and restores snapshots of every table."""

    def write_snapshot(self, folder: Path) -> SnapshotSummary:
        """Write every table as of one instant into an empty folder; neither waits for writers nor blocks them.

        Raises NotFound if the database has no tables of rayplane, Unavailable if it does not answer.
        """
        if self._engine.dialect.name == "sqlite" and not Path(self._url.database or "").exists():
            raise self._no_platform()  # SQLite would create it
        with self._errors(), self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":  # a reading transaction of SQLite has a snapshot anyway
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            revision = migrate.revision_of(connection)
            if revision is None:
                raise self._no_platform()
            counts = {table: _write(connection, table, folder / f"{table}.jsonl") for table in _tables(connection)}
            summary = SnapshotSummary(revision, connection.dialect.name, counts)
        (folder / SUMMARY).write_text(json.dumps(asdict(summary), indent=1) + "\n")
        return summary

    def read_snapshot(self, folder: Path) -> SnapshotSummary:
        """Restore a folder of ``write_snapshot`` into an empty database, in the newest schema: all or nothing.

        Raises Conflict if the database has tables, Unsupported if a newer rayplane wrote the snapshot, InvalidData if
        its files contradict its summary, Failed if the database returns other rows than were written.
        """
        summary = read_summary(folder)
        prepare_file(self._url)
        with self._errors(), self._engine.connect() as connection:
            connection = connection.execution_options(rayplane_writes=True)
            with connection.begin():
                self._require_empty(connection)
                migrate.upgrade_within(connection, summary.revision)
                _require_same_tables(connection, summary)
                for table in summary.tables:
                    _fill(connection, table, folder / f"{table}.jsonl")
                # Another kind of database may spell the same labels differently.
                if connection.dialect.name == summary.database:
                    _compare(connection, summary)
                migrate.upgrade_within(connection, "head")
        return summary

    def _no_platform(self) -> NotFound:
        where = self._url.render_as_string(hide_password=True)
        return NotFound(f"The database {where} holds no platform.", remedy="Name the home of one by RAYPLANE_HOME.")

    def _require_empty(self, connection: Connection) -> None:
        known = inspect(connection).get_table_names()
        if known:
            raise Conflict(
                f"The database {self._url.render_as_string(hide_password=True)} is not empty: it has {known[0]}.",
                remedy="Name an empty one by RAYPLANE_DATABASE_URL: a restore never writes over anything.",
            )


def read_summary(folder: Path) -> SnapshotSummary:
    """Read the summary of a folder's snapshot. Raises InvalidData for a folder without one."""
    try:
        read = json.loads((folder / SUMMARY).read_bytes())
        tables = {name: TableCount(**count) for name, count in read["tables"].items()}
        return SnapshotSummary(read["revision"], read["database"], tables)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InvalidData(f"'{folder / SUMMARY}' describes no snapshot: {exc}.", remedy="Use another backup.") from exc


def _tables(connection: Connection) -> list[str]:
    return sorted(name for name in inspect(connection).get_table_names() if name != _VERSIONS)


def _require_same_tables(connection: Connection, summary: SnapshotSummary) -> None:
    differing = set(summary.tables) ^ set(_tables(connection))
    if differing:
        raise InvalidData(
            f"The snapshot and the schema {summary.revision} differ in tables: {', '.join(sorted(differing))}.",
            remedy="Keep the platform's tables in a database, or a Postgres schema, of their own.",
        )


def _write(connection: Connection, table: str, path: Path) -> TableCount:
    with path.open("wb") as file:
        return _written(connection, table, file)


def _written(connection: Connection, table: str, file: BinaryIO | None) -> TableCount:
    digest, rows = hashlib.sha256(), -1
    for line in _lines(connection, table):
        digest.update(line)
        rows += 1
        if file is not None:
            file.write(line)
    return TableCount(rows, digest.hexdigest())


def _lines(connection: Connection, table: str) -> Iterator[bytes]:
    columns = _columns(connection, table)
    key = inspect(connection).get_pk_constraint(table)["constrained_columns"]
    head = {"columns": [[c.name, c.kind] for c in columns], "counter": _counter(connection, table, key)}
    yield _line(head)
    quote = connection.dialect.identifier_preparer.quote
    expressions = ", ".join(_select_expression(connection, column) for column in columns)
    order = ", ".join(quote(name) for name in key) or "1"
    query = text(f"SELECT {expressions} FROM {quote(table)} ORDER BY {order}")
    flags = [index for index, column in enumerate(columns) if column.kind == "boolean"]
    for row in connection.execute(query, execution_options=_STREAMED):
        values = list(row)
        for index in flags:
            values[index] = None if values[index] is None else bool(values[index])
        yield _line(values)


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _columns(connection: Connection, table: str) -> list[_Column]:
    columns = inspect(connection).get_columns(table)
    return [_Column(c["name"], _kind(c["type"]), c["type"].compile(connection.dialect)) for c in columns]


def _kind(type_: TypeEngine[Any]) -> str:
    for kind, types in (("json", JSON), ("instant", DateTime), ("boolean", Boolean)):
        if isinstance(type_, types):
            return kind
    return "plain"


def _select_expression(connection: Connection, column: _Column) -> str:
    """SQL expression of a column's value in the snapshot's form, which is how SQLite stores it."""
    name = connection.dialect.identifier_preparer.quote(column.name)
    if connection.dialect.name == "sqlite":
        return name
    if column.kind == "json":
        return f"CAST({name} AS TEXT)"
    if column.kind == "instant":
        return f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24\\:MI\\:SS.US')"
    return name


def _insert_expression(connection: Connection, column: _Column, parameter: str) -> str:
    """SQL expression of a column's value from the snapshot's form."""
    if connection.dialect.name == "sqlite" or column.kind not in ("json", "instant"):
        return f":{parameter}"
    if column.kind == "json":
        return f"CAST(CAST(:{parameter} AS TEXT) AS {column.type})"
    return f"CAST(CAST(:{parameter} AS TEXT) AS TIMESTAMP) AT TIME ZONE 'UTC'"


def _counter(connection: Connection, table: str, key: Sequence[str]) -> int | None:
    """The last number that the database generated for the table's key; None if it generates none."""
    if connection.dialect.name == "sqlite":
        made = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": table})
        if "AUTOINCREMENT" not in str(made.scalar_one()):
            return None
        last = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table})
        return int(last.scalar_one_or_none() or 0)
    sequence = _sequence(connection, table, key)
    if sequence is None:
        return None
    value, called = connection.execute(text(f"SELECT last_value, is_called FROM {sequence}")).one()
    return int(value) if called else 0


def _sequence(connection: Connection, table: str, key: Sequence[str]) -> str | None:
    if len(key) != 1:
        return None
    quoted = connection.dialect.identifier_preparer.quote(table)
    query = text("SELECT pg_get_serial_sequence(:table, :column)")
    name: str | None = connection.execute(query, {"table": quoted, "column": key[0]}).scalar_one()
    return name


def _fill(connection: Connection, table: str, path: Path) -> None:
    quote = connection.dialect.identifier_preparer.quote
    known = {column.name: column for column in _columns(connection, table)}
    with path.open("rb") as file:
        head = json.loads(file.readline())
        names = [name for name, _ in head["columns"]]
        if set(names) != set(known):
            raise InvalidData(
                f"Table '{table}' of the snapshot has other columns than the schema: {', '.join(names)}.",
                remedy="Use the version of rayplane that made the backup.",
            )
        columns = ", ".join(quote(name) for name in names)
        values = ", ".join(_insert_expression(connection, known[name], f"p{index}") for index, name in enumerate(names))
        insert = text(f"INSERT INTO {quote(table)} ({columns}) VALUES ({values})")
        connection.execute(text(f"DELETE FROM {quote(table)}"))  # rows that the migrations insert
        for rows in _batches(file):
            connection.execute(insert, [{f"p{index}": value for index, value in enumerate(row)} for row in rows])
    if head["counter"] is not None:
        _count_from(connection, table, int(head["counter"]))


def _batches(file: BinaryIO) -> Iterator[list[list[Any]]]:
    rows: list[list[Any]] = []
    for line in file:
        rows.append(json.loads(line))
        if len(rows) == _BATCH:
            yield rows
            rows = []
    if rows:
        yield rows


def _count_from(connection: Connection, table: str, last: int) -> None:
    if connection.dialect.name == "sqlite":
        values = {"name": table, "last": last}
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), values)
        if last:
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), values)
        return
    sequence = _sequence(connection, table, inspect(connection).get_pk_constraint(table)["constrained_columns"])
    query = text("SELECT setval(CAST(:sequence AS regclass), :last, :called)")
    connection.execute(query, {"sequence": sequence, "last": max(last, 1), "called": last > 0})


def _compare(connection: Connection, summary: SnapshotSummary) -> None:
    for table, wanted in summary.tables.items():
        restored = _written(connection, table, None)
        if restored != wanted:
            raise Failed(
                f"Table '{table}' has {restored.rows} restored rows that differ from the backup's {wanted.rows}.",
                remedy="Nothing was kept. Use another backup, and report this.",
            )
