"""Archive the rows of a deleted team under a name that no team can have, or purge them from there."""

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
"""Tables with records of a team's work; a purge deletes them with the team's objects."""
_EVIDENCE = (audit, leases)
"""Tables that record who did what and what it cost; they are never deleted."""


class Filing(Database):
    """Atomic and idempotent writes that archive or purge a team."""

    def predecessors(self, team: str) -> Sequence[str]:
        """The uids of the deleted teams of this name, the last one first."""
        query = (
            select(objects.c.uid)
            .where(objects.c.kind == "Team", objects.c.team == "", objects.c.name == team)
            .where(objects.c.removed_at.is_not(None))
            .order_by(objects.c.removed_at.desc(), objects.c.created_at.desc())
        )
        with self._read() as connection:
            return list(connection.execute(query).scalars())

    def is_archive(self, name: str) -> bool:
        """True if records of a deleted team are kept under this name."""
        team, _, uid = name.partition(ARCHIVED)
        return bool(uid) and uid in self.predecessors(team)

    def names_elsewhere(self) -> set[str]:
        """The names in MLflow and Feast of all teams, deleted ones included."""
        query = select(objects.c.name, objects.c.status).where(objects.c.kind == "Team", objects.c.team == "")
        with self._read() as connection:
            rows = connection.execute(query).all()
        keys = ("mlflow_workspace", "feast_project")
        return {str(status.get(key) or name) for name, status in rows for key in keys}

    def file_away(self, team: str, archived: str) -> None:
        """Move all rows of a team to the name ``archived`` and mark its objects as removed. Raises ValueError for a
        name that a team could have."""
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
            # An operation's body names its team too, which decides who may read it.
            of_team = select(operations.c.id, operations.c.body).where(operations.c.team == team)
            bodies = connection.execute(of_team).all()
            for table in (objects, *_RECORDS, *_EVIDENCE):
                connection.execute(update(table).where(table.c.team == team).values(team=archived))
            for id, body in bodies:
                renamed = {**body, "team": archived}
                connection.execute(update(operations).where(operations.c.id == id).values(body=renamed))

    def purge(self, archived: str, uid: str) -> None:
        """Delete a team's archived rows, except for its audit log and its leases. Of its own object (``uid``) name,
        times and status stay. Raises ValueError for a name that a team could have."""
        _check(archived)
        with self._write() as connection:
            for table in (objects, *_RECORDS):
                connection.execute(delete(table).where(table.c.team == archived))
            connection.execute(update(objects).where(objects.c.uid == uid).values(spec={}, labels={}, owner=""))
            # The answer to the deletion request itself stays, for a client that repeats it.
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
