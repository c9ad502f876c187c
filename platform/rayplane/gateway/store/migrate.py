"""Apply the migrations of this package to a database, from code: no alembic.ini, so that it works from a wheel."""

from __future__ import annotations

import threading
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Engine, text

from rayplane.errors import Unsupported

# Alembic keeps the migration under way in module globals.
_one_at_a_time = threading.Lock()
# Any number will do, so long as every gateway asks for the same: two that start at once on Postgres migrate in turn.
_ADVISORY_LOCK = 7230_1984


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to a revision (default: the newest), or leave it as it was. Raises Unsupported if a newer
    rayplane made it."""
    with as_file(files(__package__) / "migrations") as folder, _one_at_a_time:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        with engine.connect() as connection:
            connection = connection.execution_options(rayplane_writes=True)
            with connection.begin():
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
