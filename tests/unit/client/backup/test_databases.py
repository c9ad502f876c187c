"""Copies of SQLite files: of one instant, including rows that are only in the WAL, with a limited wait for locks."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Any

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


def copy_of_a_team(path: Path, target: Path, *, patience: float = 60.0) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        databases.copy_of_a_team(folder, path.name, path, target, deadline=time.monotonic() + patience)
    finally:
        os.close(folder)


def test_a_crafted_journal_beside_a_teams_database_has_no_file_deleted(tmp_path: Path) -> None:
    source, victim = tmp_path / "online.db", tmp_path / "victim"
    homes.plant_super_journal(source, victim)
    with pytest.raises(InvalidData, match="can't be read as a SQLite database"):
        copy_of_a_team(source, tmp_path / "copy.db")
    assert victim.exists()
    databases.copy(source, tmp_path / "other.db")
    assert not victim.exists(), "with write access SQLite does delete it: the journal is one that it obeys"


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_link_put_in_the_way_to_a_teams_database_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    own, other = tmp_path / "team" / "feast", tmp_path / "home"
    for folder in (own, other):
        homes.sqlite(folder / "online.db", "rows", [folder.name])
    connect = sqlite3.connect

    def swap() -> None:
        own.rename(tmp_path / "team" / "aside")
        own.symlink_to(other)

    def swap_back() -> None:
        own.unlink()
        (tmp_path / "team" / "aside").rename(own)

    def connect_to_the_other(*arguments: Any, **options: Any) -> sqlite3.Connection:
        if "uri" not in options:
            return connect(*arguments, **options)
        swap()
        try:
            return connect(*arguments, **options)
        finally:
            swap_back()

    folder = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if when == "before":
            swap()
        else:
            monkeypatch.setattr(sqlite3, "connect", connect_to_the_other)
        with pytest.raises(InvalidData, match="was replaced while it was read"):
            databases.copy_of_a_team(
                folder, "online.db", own / "online.db", tmp_path / "copy.db", deadline=time.monotonic() + 60
            )
    finally:
        os.close(folder)


def test_a_teams_database_that_has_another_name_is_not_copied(tmp_path: Path) -> None:
    homes.sqlite(tmp_path / "secret.db", "rows", ["1"])
    (tmp_path / "online.db").hardlink_to(tmp_path / "secret.db")
    with pytest.raises(InvalidData, match="no regular file with this one name"):
        copy_of_a_team(tmp_path / "online.db", tmp_path / "copy.db")


def test_rows_of_a_teams_database_that_are_only_in_the_wal_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "online.db"
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("CREATE TABLE rows (version_num TEXT)")
        writer.execute("INSERT INTO rows VALUES ('1')")
        writer.commit()
        copy_of_a_team(source, tmp_path / "copy.db")
    assert homes.rows(tmp_path / "copy.db", "rows") == [("1",)]


def test_a_teams_database_that_stays_locked_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    source = tmp_path / "online.db"
    with closing(sqlite3.connect(source)) as holder:
        holder.execute("CREATE TABLE rows (version_num TEXT)")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="kept locked"):
            copy_of_a_team(source, tmp_path / "copy.db", patience=0.3)
