"""The Postgres of the session is real, and each test's database is its own."""

from __future__ import annotations

import psycopg
import pytest

from tests.support import postgres


def test_postgres_answers_with_its_version(postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        row = connection.execute("show server_version").fetchone()
    assert row is not None
    assert int(row[0].split(".")[0]) >= 14


def test_a_database_is_empty_at_first_and_gone_at_last_though_somebody_is_connected(postgres_url: str) -> None:
    with postgres.database(postgres_url) as url:
        dsn = url.replace("+psycopg", "")
        connection = psycopg.connect(dsn, autocommit=True)
        tables = connection.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone()
        assert tables == (0,)
        connection.execute("create table held (id int)")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dsn)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select 1")
    connection.close()
