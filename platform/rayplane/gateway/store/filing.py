"""What a deleted team left: its rows filed under a name that no team can have, or purged from there."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select, update

from rayplane.gateway.store.database import Database
from rayplane.gateway.store.tables import (
    audit,
    dataset_versions,
    events,
    idempotency,
    leases,
    lineage,
    objects,
    operations,
    step_results,
)
from rayplane.nouns.team import ARCHIVED

_RECORDS = (lineage, events, dataset_versions, step_results, operations)
"""What tells of a team's work; with its objects it goes when the team is purged."""
_EVIDENCE = (audit, leases)
"""What tells who did what, and what it cost: it is never deleted."""


class Filing(Database):
    """Writes of which each is whole or not at all, and may be done again."""

    def predecessors(self, team: str) -> Sequence[str]:
        """The uids of the teams of this name that are gone, the last one first."""
        query = (
            select(objects.c.uid)
            .where(objects.c.kind == "Team", objects.c.team == "", objects.c.name == team)
            .where(objects.c.removed_at.is_not(None))
            .order_by(objects.c.removed_at.desc(), objects.c.created_at.desc())
        )
        with self._read() as connection:
            return list(connection.execute(query).scalars())

    def is_archive(self, name: str) -> bool:
        """Whether records of a deleted team are kept under this name."""
        team, _, uid = name.partition(ARCHIVED)
        return bool(uid) and uid in self.predecessors(team)

    def names_elsewhere(self) -> set[str]:
        """The names that all teams that ever were have or had in MLflow and Feast."""
        query = select(objects.c.name, objects.c.status).where(objects.c.kind == "Team", objects.c.team == "")
        with self._read() as connection:
            rows = connection.execute(query).all()
        keys = ("mlflow_workspace", "feast_project")
        return {str(status.get(key) or name) for name, status in rows for key in keys}

    def file_away(self, team: str, archived: str) -> None:
        """Put all rows of a team under ``archived``; its objects are removed then. Raises ValueError for a name that a
        team could have."""
        _check(archived)
        with self._write() as connection:
            now, live = self._clock(), objects.c.removed_at.is_(None)
            for uid in connection.execute(select(objects.c.uid).where(objects.c.team == team, live)).scalars():
                self._note_write(uid)
            version = self._next_version(connection)
            connection.execute(
                update(objects)
                .where(objects.c.team == team, live)
                .values(
                    removed_at=now,
                    deleted_at=func.coalesce(objects.c.deleted_at, now),
                    updated_at=now,
                    resource_version=version,
                )
            )
            for table in (objects, *_RECORDS, *_EVIDENCE):
                connection.execute(update(table).where(table.c.team == team).values(team=archived))
            # An operation's body tells of its team too, and by that who may read it.
            kept = select(operations.c.id, operations.c.body).where(operations.c.team == archived)
            for id, body in connection.execute(kept).all():
                renamed = {**body, "team": archived}
                connection.execute(update(operations).where(operations.c.id == id).values(body=renamed))

    def purge(self, archived: str, uid: str) -> None:
        """Delete what was filed away of a team, but for its audit log and its leases. Of its own object (``uid``) the
        name, the times and the status stay. Raises ValueError for a name that a team could have."""
        _check(archived)
        with self._write() as connection:
            for table in (objects, *_RECORDS):
                connection.execute(delete(table).where(table.c.team == archived))
            connection.execute(update(objects).where(objects.c.uid == uid).values(spec={}, labels={}, owner=""))
            # What was answered to a request for the deletion itself is told again to one who did not hear it.
            of_it = idempotency.c.team_uid == uid
            keys = select(idempotency.c.principal, idempotency.c.key, idempotency.c.answer).where(of_it)
            for principal, key, answer in connection.execute(keys).all():
                status = (answer.get("body") or {}).get("status") or {}
                if status.get("archived_as") != archived:
                    one = (idempotency.c.principal == principal, idempotency.c.key == key)
                    connection.execute(delete(idempotency).where(*one))


def _check(archived: str) -> None:
    if ARCHIVED not in archived:
        raise ValueError(f"'{archived}' could be a team's name")
