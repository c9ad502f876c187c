"""Copies of SQLite files: of one instant, including rows that are only in the WAL, with a limited wait for locks."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from rayplane.client.backup import databases
from rayplane.errors import InvalidData, Unavailable
from tests.unit.client.backup import homes


def test_rows_that_are_only_in_the_wal_are_copied_to_one_private_file(tmp_path: Path) -> None:
    source, target = tmp_path / "a?b#100%.db", tmp_path / "copy" / "x.db"
    target.parent.mkdir()
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("CREATE TABLE alembic_version (version_num TEXT)")
        writer.execute("INSERT INTO alembic_version VALUES ('4ae0')")
        writer.commit()
        assert databases.copy(source, target) == "4ae0"
    assert [path.name for path in target.parent.iterdir()] == ["x.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert homes.rows(target, "alembic_version") == [("4ae0",)]


def test_a_database_without_a_schema_of_alembic_has_no_revision(tmp_path: Path) -> None:
    homes.sqlite(tmp_path / "a.db", "rows", ["1"])
    assert databases.copy(tmp_path / "a.db", tmp_path / "b.db") is None


def test_a_copy_of_a_database_that_stays_locked_fails_after_its_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "PATIENCE", 0.3)
    source = tmp_path / "a.db"
    with closing(sqlite3.connect(source)) as holder:
        holder.execute("CREATE TABLE rows (version_num TEXT)")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="kept locked"):
            databases.copy(source, tmp_path / "b.db")
        holder.rollback()
    (tmp_path / "b.db").unlink()
    databases.copy(source, tmp_path / "b.db")


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database" * 1000)
    with pytest.raises(InvalidData, match=r"a\.db' can't be read as a SQLite database"):
        databases.copy(tmp_path / "a.db", tmp_path / "b.db")
