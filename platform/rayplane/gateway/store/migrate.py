"""Apply this package's migrations to a database. Needs no alembic.ini, so that it works from a wheel."""

from __future__ import annotations

import threading
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, text

from rayplane.errors import Unsupported

# Alembic keeps the running migration in module globals.
_one_at_a_time = threading.Lock()
# An arbitrary number, the same in every gateway: two that start at once on Postgres migrate one after the other.
_ADVISORY_LOCK = 7230_1984


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate the schema to a revision (default: the newest), or leave it as it was. Raises Unsupported if a newer
    rayplane made it."""
    with engine.connect() as connection:
        connection = connection.execution_options(rayplane_writes=True)
        with connection.begin():
            upgrade_within(connection, revision)


def upgrade_within(connection: Connection, revision: str) -> None:
    """Migrate the schema to a revision in the connection's transaction. Raises Unsupported for an unknown one."""
    with as_file(files(__package__) / "migrations") as folder, _one_at_a_time:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError as exc:
            raise Unsupported(
                f"The database was written by a newer rayplane: {exc}.",
                remedy="Install that version of rayplane, or a newer one.",
            ) from exc


def revision_of(connection: Connection) -> str | None:
    """The revision of a database's schema; None if it has no schema."""
    return MigrationContext.configure(connection).get_current_revision()
