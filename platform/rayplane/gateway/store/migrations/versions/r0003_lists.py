"""Lists: the cluster of a spec as a column, and indexes of what is there, in the order in which it is listed."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _cluster(spec: str) -> Any:
    value = json.loads(spec)
    return value.get("cluster") if isinstance(value, dict) else None


def upgrade() -> None:
    """Add the column and fill it from the specs; make the indexes anew, without what was removed."""
    op.add_column("objects", sa.Column("cluster", sa.Text()))
    # Not by SQL: to find one key Postgres reads the escapes of the whole text, and refuses \\u0000 and half surrogates.
    bind = op.get_bind()
    rows = bind.execute(sa.text("SELECT uid, CAST(spec AS TEXT) FROM objects")).all()
    named = [{"which": uid, "cluster": name} for uid, spec in rows if isinstance(name := _cluster(spec), str)]
    if named:
        bind.execute(sa.text("UPDATE objects SET cluster = :cluster WHERE uid = :which"), named)
    op.drop_index("ix_objects_page", table_name="objects")
    op.drop_index("ix_objects_phase", table_name="objects")
    live = sa.text("removed_at IS NULL")
    for name, columns in (
        ("ix_objects_page", ["kind", "team", "created_at", "uid"]),
        ("ix_objects_cluster", ["kind", "team", "cluster", "created_at", "uid"]),
        ("ix_objects_phase", ["kind", "phase", "team", "created_at", "uid", "removed_at"]),
    ):
        op.create_index(name, "objects", columns, sqlite_where=live, postgresql_where=live)
    op.create_index("ix_objects_team", "objects", ["kind", "team"])
