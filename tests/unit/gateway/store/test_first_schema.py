"""Data of rayplane's first schema is readable now: after the migrations, and from a backup."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from rayplane.gateway.store import Store
from rayplane.gateway.store.tables import metadata
from tests.support import first_schema
from tests.unit.gateway.store.conftest import fresh_schema


def store_of(url: str) -> Store:
    return Store(url, clock=lambda: first_schema.AT + timedelta(hours=1))


def test_every_row_of_the_first_schema_is_readable_after_the_migrations(store_url: str) -> None:
    first_schema.make(store_url)
    store = store_of(store_url)
    store.migrate()
    first_schema.check_remembered(store)
    first_schema.check(store)
    store.close()


def test_the_test_data_of_the_first_schema_fills_every_table(store_url: str, tmp_path: Path) -> None:
    first_schema.make(store_url)
    store = store_of(store_url)
    counts = store.write_snapshot(tmp_path)
    assert counts.revision == first_schema.FIRST
    assert all(count.rows for count in counts.tables.values())
    assert set(counts.tables) <= set(metadata.tables)
    store.close()


def test_a_backup_of_the_first_schema_is_restored_into_the_newest(
    store_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first_schema.make(store_url)
    store = store_of(store_url)
    store.write_snapshot(tmp_path)
    store.close()
    engine = create_engine(store_url)
    assert "cluster" not in {column["name"] for column in inspect(engine).get_columns("objects")}, "it changed nothing"
    engine.dispose()
    if store_url.startswith("sqlite"):
        read_back(f"sqlite:///{tmp_path / 'newest' / 'gateway.db'}", tmp_path)
        return
    with fresh_schema(request.getfixturevalue("postgres_url")) as url:
        read_back(url, tmp_path)


def read_back(url: str, folder: Path) -> None:
    newest = store_of(url)
    newest.read_snapshot(folder)
    first_schema.check_remembered(newest)
    first_schema.check(newest)
    newest.close()
