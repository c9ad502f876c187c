"""Indexes: what was written since a version, and the leases of one cluster."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the indexes; no row changes."""
    op.create_index("ix_objects_version", "objects", ["resource_version"])
    op.create_index("ix_leases_cluster", "leases", ["cluster_uid", "seq"])
