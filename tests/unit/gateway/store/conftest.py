"""A migrated store with a clock that the test moves, on SQLite and in a schema of its own on a real Postgres."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from rayplane.gateway.store import Store
from tests.support import stores


class Clock:
    """Clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database, removed after the test."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state' / 'gateway.db'}"
        return
    with fresh_schema(request.getfixturevalue("postgres_url")) as url:
        yield url


@contextmanager
def fresh_schema(server: str) -> Iterator[str]:
    """An empty schema of its own on a Postgres server: made in less time than a database."""
    name = f"t{uuid.uuid4().hex[:12]}"
    url = make_url(server).set(drivername="postgresql+psycopg")
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        yield url.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture
def clock() -> Clock:
    """The store's clock."""
    return Clock()


@pytest.fixture
def store(store_url: str, clock: Callable[[], datetime]) -> Iterator[Store]:
    """A migrated store."""
    on_sqlite = store_url.startswith("sqlite")
    made = Store(stores.migrate(store_url) if on_sqlite else store_url, clock=clock)
    if not on_sqlite:
        made.migrate()
    yield made
    made.close()
