"""The first schema: objects, append-only rows with the triggers that keep them so, records, leadership."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LABELS = sa.JSON().with_variant(JSONB(), "postgresql")

APPEND_ONLY = ("audit", "lineage", "events")


def upgrade() -> None:
    """Make every table, then the triggers."""
    _objects()
    _append_only()
    _records()
    if op.get_bind().dialect.name == "sqlite":
        _sqlite_triggers()
    else:
        _postgres_triggers()


def _objects() -> None:
    revision_table = op.create_table(
        "revision",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revision"),
        sa.CheckConstraint("id = 1", name=op.f("ck_revision_one_row")),
    )
    op.bulk_insert(revision_table, [{"id": 1, "value": 0}])
    op.create_table(
        "objects",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("resource_version", sa.BigInteger(), nullable=False),
        sa.Column("labels", LABELS, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("deleted_at", INSTANT),
        sa.Column("removed_at", INSTANT),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("status", sa.JSON(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_objects"),
    )
    live = sa.text("removed_at IS NULL")
    for name, column in (("uq_objects_live_name", "name"), ("uq_objects_live_external_id", "external_id")):
        op.create_index(
            name, "objects", ["kind", "team", column], unique=True, sqlite_where=live, postgresql_where=live
        )
    op.create_index("ix_objects_page", "objects", ["kind", "team", "created_at", "uid"])
    op.create_index("ix_objects_phase", "objects", ["kind", "phase"])


def _append_only() -> None:
    op.create_table(
        "audit",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("time", INSTANT, nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_team_id", "audit", ["team", "id"])
    op.create_table(
        "leases",
        sa.Column("seq", SERIAL, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("cluster_uid", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("cpu", sa.Float(), nullable=False),
        sa.Column("memory", sa.Float(), nullable=False),
        sa.Column("gpu", sa.Float(), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.PrimaryKeyConstraint("seq", name="pk_leases"),
        sa.UniqueConstraint("id", name="uq_leases_id"),
        sa.CheckConstraint("ended_at IS NULL OR ended_at >= started_at", name=op.f("ck_leases_ends_after_start")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_leases_team_seq", "leases", ["team", "seq"])
    op.create_table(
        "lineage",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("time", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_lineage"),
        sa.UniqueConstraint("team", "source", "target", name="uq_lineage_team_source_target"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_lineage_team_target", "lineage", ["team", "target"])
    op.create_table(
        "events",
        sa.Column("seq", SERIAL, nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("job_uid", sa.Text()),
        sa.Column("time", INSTANT, nullable=False),
        sa.Column("recorded_at", INSTANT, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sa.UniqueConstraint("team", "id", name="uq_events_team_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_job_uid_type", "events", ["job_uid", "type"])


def _records() -> None:
    op.create_table(
        "dataset_versions",
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("published_at", INSTANT, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("team", "name", "version", name="pk_dataset_versions"),
    )
    op.create_table(
        "step_results",
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("team", "key", name="pk_step_results"),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
    )
    op.create_table(
        "idempotency",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("principal", "key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])
    op.create_table(
        "leader",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_leader"),
        sa.CheckConstraint("id = 1", name=op.f("ck_leader_one_row")),
    )


def _sqlite_triggers() -> None:
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    op.execute(
        "CREATE TRIGGER leases_no_delete BEFORE DELETE ON leases "
        "BEGIN SELECT RAISE(ABORT, 'leases is append-only'); END"
    )
    op.execute(
        "CREATE TRIGGER leases_only_close BEFORE UPDATE ON leases "
        "WHEN OLD.ended_at IS NOT NULL OR NEW.ended_at IS NULL "
        "OR (OLD.seq, OLD.id, OLD.team, OLD.cluster_uid, OLD.cluster, OLD.cpu, OLD.memory, OLD.gpu, OLD.started_at) "
        "IS NOT "
        "(NEW.seq, NEW.id, NEW.team, NEW.cluster_uid, NEW.cluster, NEW.cpu, NEW.memory, NEW.gpu, NEW.started_at) "
        "BEGIN SELECT RAISE(ABORT, 'a lease can only be closed, once'); END"
    )


def _postgres_triggers() -> None:
    op.execute(
        "CREATE FUNCTION rayplane_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    op.execute(
        "CREATE FUNCTION rayplane_only_close() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.ended_at IS NOT NULL OR NEW.ended_at IS NULL "
        "OR (to_jsonb(OLD) - 'ended_at') IS DISTINCT FROM (to_jsonb(NEW) - 'ended_at') "
        "THEN RAISE EXCEPTION 'a lease can only be closed, once'; END IF; RETURN NEW; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION rayplane_append_only()"
        )
    op.execute(
        "CREATE TRIGGER leases_no_delete BEFORE DELETE ON leases FOR EACH ROW EXECUTE FUNCTION rayplane_append_only()"
    )
    op.execute(
        "CREATE TRIGGER leases_only_close BEFORE UPDATE ON leases FOR EACH ROW EXECUTE FUNCTION rayplane_only_close()"
    )
    # Rows are not the only way to lose them.
    for table in (*APPEND_ONLY, "leases"):
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION rayplane_append_only()"
        )
