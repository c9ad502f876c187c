"""Deleted teams: rows of the append-only tables may be filed under an archived name, and the old ones are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# As version 0001 made them.
COLUMNS = {
    "audit": ("id", "time", "principal", "action", "kind", "name", "detail"),
    "lineage": ("id", "source", "target", "time"),
    "events": ("seq", "id", "type", "job_uid", "time", "recorded_at", "body"),
    "leases": ("seq", "id", "cluster_uid", "cluster", "cpu", "memory", "gpu", "started_at", "ended_at"),
}
PURGED = ("lineage", "events")
"""Tables of which a row may be deleted, once it was filed away."""
OTHERS = ("dataset_versions", "step_results", "operations")


def upgrade() -> None:
    """Let rows be filed away; file those of teams that are gone; note whose an answer to an idempotency key is."""
    op.add_column("idempotency", sa.Column("team_uid", sa.Text()))
    if op.get_bind().dialect.name == "sqlite":
        _sqlite_triggers()
    else:
        _postgres_triggers()
    _file_away()


def _sqlite_triggers() -> None:
    for table, columns in COLUMNS.items():
        for old in ("no_update", "no_delete", "only_close"):  # of version 0001
            op.execute(f"DROP TRIGGER IF EXISTS {table}_{old}")
        same = f"({_of('OLD', columns)}) IS ({_of('NEW', columns)})"
        filed = (
            f"({same} AND OLD.team <> '' AND instr(OLD.team, '~') = 0 "
            "AND substr(NEW.team, 1, length(OLD.team) + 1) = OLD.team || '~')"
        )
        said = "a lease can only be closed, once" if table == "leases" else f"{table} is append-only"
        allowed = f"{filed} OR {_closes()}" if table == "leases" else filed
        op.execute(
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} WHEN NOT ({allowed}) "
            f"BEGIN SELECT RAISE(ABORT, '{said}'); END"
        )
        kept = " WHEN instr(OLD.team, '~') = 0" if table in PURGED else ""
        op.execute(
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}{kept} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )


def _closes() -> str:
    columns = ("team", *(column for column in COLUMNS["leases"] if column != "ended_at"))
    return f"(OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND ({_of('OLD', columns)}) IS ({_of('NEW', columns)}))"


def _postgres_triggers() -> None:
    for table, columns in COLUMNS.items():
        # As text: JSON has no equality, and to_jsonb refuses escapes that an older version kept.
        same = f"ROW({_of('OLD', columns, '::text')}) IS NOT DISTINCT FROM ROW({_of('NEW', columns, '::text')})"
        filed = (
            f"({same} AND OLD.team <> '' AND position('~' in OLD.team) = 0 AND starts_with(NEW.team, OLD.team || '~'))"
        )
        said = "a lease can only be closed, once" if table == "leases" else f"{table} is append-only"
        allowed = filed
        if table == "leases":
            others = ("team", *(column for column in columns if column != "ended_at"))
            allowed = (
                f"{filed} OR (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL "
                f"AND ROW({_of('OLD', others)}) IS NOT DISTINCT FROM ROW({_of('NEW', others)}))"
            )
        op.execute(
            f"CREATE OR REPLACE FUNCTION rayplane_filed_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF NOT ({allowed}) THEN RAISE EXCEPTION '{said}'; END IF; RETURN NEW; END $$"
        )
        for old in ("append_only", "no_update", "no_delete", "only_close"):
            op.execute(f"DROP TRIGGER IF EXISTS {table}_{old} ON {table}")
        op.execute(
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION rayplane_filed_{table}()"
        )
        kept = " WHEN (position('~' in OLD.team) = 0)" if table in PURGED else ""
        op.execute(
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "
            f"FOR EACH ROW{kept} EXECUTE FUNCTION rayplane_append_only()"
        )
    op.execute("DROP FUNCTION IF EXISTS rayplane_only_close()")


def _of(row: str, columns: Sequence[str], cast: str = "") -> str:
    return ", ".join(f"{row}.{column}{cast}" for column in columns)


_OPERATIONS = sa.table(
    "operations", sa.column("id", sa.Text()), sa.column("team", sa.Text()), sa.column("body", sa.JSON())
)


def _operations_of(team: str) -> list[tuple[str, dict[str, Any]]]:
    query = sa.select(_OPERATIONS.c.id, _OPERATIONS.c.body).where(_OPERATIONS.c.team == team)
    return [(row.id, row.body) for row in op.get_bind().execute(query)]


def _file_away() -> None:
    """Put what deleted teams left under the name of each: a new team of that name would have found it."""
    bind = op.get_bind()
    teams = "SELECT name, uid, removed_at IS NULL FROM objects WHERE kind = 'Team' ORDER BY created_at"
    last: dict[str, Any] = {}
    live: set[str] = set()
    for name, uid, is_live in bind.execute(sa.text(teams)):
        last[name] = uid
        if is_live:
            live.add(name)
    for name, uid in last.items():
        if name in live:
            continue
        names = {"team": name, "archived": f"{name}~{uid}"}
        bind.execute(
            sa.text(
                "UPDATE objects SET removed_at = updated_at, deleted_at = COALESCE(deleted_at, updated_at) "
                "WHERE team = :team AND removed_at IS NULL"
            ),
            names,
        )
        bodies = _operations_of(name)
        for table in ("objects", *COLUMNS, *OTHERS):
            bind.execute(sa.text(f"UPDATE {table} SET team = :archived WHERE team = :team"), names)
        for id, body in bodies:
            # An operation's body names its team too, which decides who may read it.
            bind.execute(
                _OPERATIONS.update().where(_OPERATIONS.c.id == id).values(body={**body, "team": names["archived"]})
            )
