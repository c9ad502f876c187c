"""Lists: the cluster of a spec as a column, and indexes of what is there, in the order in which it is listed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_CLUSTER = {
    "sqlite": "CASE json_type(spec, '$.cluster') WHEN 'text' THEN json_extract(spec, '$.cluster') END",
    "postgresql": "CASE json_typeof(spec -> 'cluster') WHEN 'string' THEN spec ->> 'cluster' END",
}


def upgrade() -> None:
    """Add the column and fill it from the specs; make the indexes anew, without what was removed."""
    op.add_column("objects", sa.Column("cluster", sa.Text()))
    op.execute(f"UPDATE objects SET cluster = {_CLUSTER[op.get_bind().dialect.name]}")
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
