"""The schema that the migrations make."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from rayplane.errors import Unavailable, Unsupported
from rayplane.gateway.store import Store
from rayplane.gateway.store.tables import metadata


def test_the_migrations_make_exactly_the_tables_that_the_code_describes(store: Store, store_url: str) -> None:
    engine = create_engine(store_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
        made = inspect(connection)
        assert set(made.get_table_names()) == {*metadata.tables, "alembic_version"}
        for table in metadata.tables.values():
            checks = {check["name"] for check in made.get_check_constraints(table.name)}
            assert checks == {c.name for c in table.constraints if type(c).__name__ == "CheckConstraint"}
    engine.dispose()


def test_migrating_again_changes_nothing(store: Store) -> None:
    store.put("Cluster", "growth", "dev", {}, owner="ada")
    store.migrate()
    assert len(store.list("Cluster").items) == 1


def test_gateways_that_start_at_the_same_time_migrate_one_database(store_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: Store(store_url).migrate(), range(4)))
    store = Store(store_url)
    assert store.list("Cluster").items == []
    store.close()


def test_objects_of_an_older_version_are_listed_by_their_cluster(store: Store, store_url: str) -> None:
    specs = {"on": {"cluster": "dev"}, "own": {"cluster": None}, "without": {}, "odd": {"cluster": ["dev"]}}
    for name, spec in specs.items():
        store.put("Job", "growth", name, spec, owner="ada")
    store.close()
    engine = create_engine(store_url)
    with engine.begin() as connection:  # as version 0002 left it
        for index in ("page", "phase", "cluster", "team"):
            connection.execute(text(f"DROP INDEX ix_objects_{index}"))
        for index in ("action", "time"):
            connection.execute(text(f"DROP INDEX ix_audit_{index}_id"))
        connection.execute(text("ALTER TABLE objects DROP COLUMN cluster"))
        connection.execute(text("ALTER TABLE idempotency DROP COLUMN team_uid"))
        connection.execute(text("CREATE INDEX ix_objects_page ON objects (kind, team, created_at, uid)"))
        connection.execute(text("CREATE INDEX ix_objects_phase ON objects (kind, phase)"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
        # Escapes that are no valid text, as an earlier version stored them: Postgres decodes them to look up a key.
        for name, escaped in (("own", "\\u0000"), ("without", "\\ud800")):
            spec = f'{{"cluster": null, "entrypoint": "{escaped}"}}'
            connection.execute(text("UPDATE objects SET spec = :spec WHERE name = :name"), {"spec": spec, "name": name})
    engine.dispose()
    store.migrate()
    assert [obj.metadata.name for obj in store.each("Job", "growth", cluster="dev")] == ["on"]
    assert store.count("Job", "growth") == len(specs)


def test_a_database_of_a_newer_rayplane_is_refused(store: Store, store_url: str) -> None:
    engine = create_engine(store_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(Unsupported, match="newer rayplane"):
        store.migrate()


def test_a_failed_migration_leaves_nothing(store_url: str) -> None:
    if not store_url.startswith("sqlite"):
        engine = create_engine(store_url)
    else:
        path = Path(store_url.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True)
        engine = create_engine(store_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE leader (stranger INTEGER)"))  # made last: the migration fails there
    with pytest.raises(Exception, match="already exists"):
        Store(store_url).migrate()
    assert inspect(engine).get_table_names() == ["leader"]
    engine.dispose()


def test_the_error_of_an_unmigrated_database_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="start it with this database"):
        Store(f"sqlite:///{tmp_path / 'empty.db'}").list("Cluster")


def test_only_its_owner_can_read_the_sqlite_file(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'state' / 'gateway.db'}")
    store.migrate()
    store.put("Cluster", "growth", "dev", {}, owner="ada")
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path / "state")}
    assert modes
    assert set(modes.values()) == {0o600}
    store.close()


def test_sqlite_runs_in_wal_mode(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'gateway.db'}")
    store.migrate()
    with create_engine(f"sqlite:///{tmp_path / 'gateway.db'}").connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
    store.close()


def test_the_migrations_are_files_of_the_package() -> None:
    folder = files("rayplane.gateway.store") / "migrations"
    assert (folder / "env.py").is_file()
    names = sorted(p.name for p in (folder / "versions").iterdir() if p.name.startswith("r"))
    assert names == [
        *("r0001_first.py", "r0002_changes_and_leases.py", "r0003_lists.py"),
        *("r0004_audit.py", "r0005_archived_teams.py"),
    ]
