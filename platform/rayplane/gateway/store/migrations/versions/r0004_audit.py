"""The audit log: indexes by action and by time, for who asks about all teams."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the indexes; no row changes."""
    op.create_index("ix_audit_action_id", "audit", ["action", "id"])
    op.create_index("ix_audit_time_id", "audit", ["time", "id"])
