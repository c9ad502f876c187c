"""Describe the tables of the store; the migrations create them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator


class Instant(TypeDecorator[datetime]):
    """An instant with its zone: timestamptz on Postgres, UTC text of fixed width on SQLite, which drops zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the instant {value.isoformat()} has no zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# A spec keeps the order of its keys (a pipeline's steps), which JSONB would lose; labels are only matched.
Document = JSON()
Labels = JSON().with_variant(JSONB(), "postgresql")
# SQLite generates numbers only in a column of type INTEGER.
Serial = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

revision = Table(
    "revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
"""One row: the newest resource version. Its lock is the write lock, so versions are committed in order."""

objects = Table(
    "objects",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("team", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("external_id", Text),
    Column("generation", Integer, nullable=False),
    Column("resource_version", BigInteger, nullable=False),
    Column("labels", Labels, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("deleted_at", Instant),
    Column("removed_at", Instant),
    Column("spec", Document, nullable=False),
    Column("status", Document, nullable=False),
    Column("phase", Text, nullable=False),
    Column("cluster", Text),
)
"""``phase`` and ``cluster`` repeat the status and the spec, to be indexed."""
_LIVE = objects.c.removed_at.is_(None)
Index("uq_objects_live_name", objects.c.kind, objects.c.team, objects.c.name, unique=True,
      sqlite_where=_LIVE, postgresql_where=_LIVE)  # fmt: skip
Index("uq_objects_live_external_id", objects.c.kind, objects.c.team, objects.c.external_id, unique=True,
      sqlite_where=_LIVE, postgresql_where=_LIVE)  # fmt: skip
Index("ix_objects_page", objects.c.kind, objects.c.team, objects.c.created_at, objects.c.uid,
      sqlite_where=_LIVE, postgresql_where=_LIVE)  # fmt: skip
Index("ix_objects_cluster", objects.c.kind, objects.c.team, objects.c.cluster, objects.c.created_at, objects.c.uid,
      sqlite_where=_LIVE, postgresql_where=_LIVE)  # fmt: skip
# With removed_at, though all are NULL here: SQLite counts by the index alone only if it has every queried column.
Index("ix_objects_phase", objects.c.kind, objects.c.phase, objects.c.team, objects.c.created_at, objects.c.uid,
      objects.c.removed_at, sqlite_where=_LIVE, postgresql_where=_LIVE)  # fmt: skip
Index("ix_objects_team", objects.c.kind, objects.c.team)
Index("ix_objects_version", objects.c.resource_version)

audit = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("time", Instant, nullable=False),
    Column("principal", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("team", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("detail", Document, nullable=False),
    Index(None, "team", "id"),
    Index(None, "action", "id"),
    Index(None, "time", "id"),
    sqlite_autoincrement=True,
)

leases = Table(
    "leases",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("id", Text, nullable=False),
    Column("team", Text, nullable=False),
    Column("cluster_uid", Text, nullable=False),
    Column("cluster", Text, nullable=False),
    Column("cpu", Float, nullable=False),
    Column("memory", Float, nullable=False),
    Column("gpu", Float, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    UniqueConstraint("id"),
    CheckConstraint("ended_at IS NULL OR ended_at >= started_at", name="ends_after_start"),
    Index(None, "team", "seq"),
    Index("ix_leases_cluster", "cluster_uid", "seq"),
    sqlite_autoincrement=True,
)

lineage = Table(
    "lineage",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("team", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("time", Instant, nullable=False),
    UniqueConstraint("team", "source", "target"),
    Index(None, "team", "target"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("team", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("job_uid", Text),
    Column("time", Instant, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("body", Document, nullable=False),
    UniqueConstraint("team", "id"),
    Index(None, "job_uid", "type"),
    sqlite_autoincrement=True,
)

dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column("team", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("published_at", Instant, nullable=False),
    Column("body", Document, nullable=False),
    PrimaryKeyConstraint("team", "name", "version"),
)

step_results = Table(
    "step_results",
    metadata,
    Column("team", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("body", Document, nullable=False),
    PrimaryKeyConstraint("team", "key"),
)

operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("team", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("body", Document, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("principal", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("answer", Document, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("team_uid", Text),
    PrimaryKeyConstraint("principal", "key"),
    Index(None, "created_at"),
)

leader = Table(
    "leader",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("expires_at", Instant, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
