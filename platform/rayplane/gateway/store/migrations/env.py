"""Runs the migrations on the connection that ``migrate.upgrade`` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from rayplane.gateway.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite's DDL is transactional, too, provided that the driver does not commit behind our back; ours does not.
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
