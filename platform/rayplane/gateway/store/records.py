"""Store records by key: dataset versions, the step cache, operations, answers to idempotency keys."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, insert, select, update

from rayplane.errors import Conflict, NotFound
from rayplane.gateway.store.database import Database
from rayplane.gateway.store.tables import dataset_versions, idempotency, operations, step_results
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Operation
from rayplane.nouns.pipeline import StepResult

REMEMBERED = timedelta(days=1)
"""Time for which the answer to an idempotency key is kept."""


class Records(Database):
    """Tables of records by key."""

    def put_dataset_version(self, v: DatasetVersion, *, published_at: datetime | None = None) -> None:
        """Store a version. A known one keeps its content, but is the newest again if it was published again later.

        ``published_at``: the instant of the publication; default: when the version was made.
        """
        at = published_at or v.created_at
        table = dataset_versions
        where = (table.c.team == v.team) & (table.c.name == v.name) & (table.c.version == v.version)
        with self._write() as connection:
            known = connection.execute(select(table.c.published_at).where(where)).scalar_one_or_none()
            if known is None:
                values = {"team": v.team, "name": v.name, "version": v.version, "published_at": at, "body": _body(v)}
                connection.execute(insert(table).values(values))
            elif at > known:
                connection.execute(update(table).where(where).values(published_at=at))

    def get_dataset_version(self, team: str, name: str, version: str | None = None) -> DatasetVersion:
        """A version (None: the newest by publication); raises NotFound with the nearest known one."""
        versions = self.list_dataset_versions(team, name)
        record = next((v for v in versions if version in (None, v.version)), None)
        if record is not None:
            return record
        known = [v.version for v in versions]
        near = difflib.get_close_matches(version or "", known, n=1, cutoff=0.6)
        if near:
            remedy = f"Did you mean '{near[0]}'?"
        else:
            remedy = f"It has: {', '.join(known[:10])}." if known else "Run the job that publishes it."
        what = f"version '{version}'" if version else "version"
        raise NotFound(f"Dataset '{team}/{name}' has no {what}.", remedy=remedy)

    def list_dataset_versions(self, team: str, name: str) -> list[DatasetVersion]:
        """The versions of a dataset, newest first."""
        table = dataset_versions
        query = (
            select(table.c.body)
            .where(table.c.team == team, table.c.name == name)
            .order_by(table.c.published_at.desc(), table.c.version)
        )
        with self._read() as connection:
            return [DatasetVersion.model_validate(row.body) for row in connection.execute(query)]

    def forget_dataset_versions(self, team: str, name: str) -> None:
        """Drop the records of a deleted dataset's versions; none is success."""
        table = dataset_versions
        with self._write() as connection:
            connection.execute(delete(table).where(table.c.team == team, table.c.name == name))

    def put_step_result(self, team: str, r: StepResult) -> None:
        """Store the result of a step with this key, in place of an earlier one."""
        key = {"team": team, "key": r.key}
        with self._write() as connection:
            _replace(connection, step_results, key, {"updated_at": self._clock(), "body": _body(r)})

    def get_step_result(self, team: str, key: str) -> StepResult | None:
        """The result of a step with this key; None if none ever ended."""
        query = select(step_results.c.body).where(step_results.c.team == team, step_results.c.key == key)
        with self._read() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else StepResult.model_validate(row.body)

    def put_operation(self, op: Operation) -> None:
        """Store an operation, in place of one with its id."""
        with self._write() as connection:
            values = {"team": op.team, "created_at": op.created_at, "body": _body(op)}
            _replace(connection, operations, {"id": op.id}, values)

    def get_operation(self, id: str) -> Operation:
        """The stored operation; raises NotFound."""
        with self._read() as connection:
            row = connection.execute(select(operations.c.body).where(operations.c.id == id)).one_or_none()
            if row is None:
                raise NotFound(f"There is no operation '{id}'.", remedy="Look at the object itself.")
            return Operation.model_validate(row.body)

    def remember(
        self, principal: str, key: str, fingerprint: str, answer: Mapping[str, Any], *, team_uid: str | None = None
    ) -> None:
        """Store the answer to a request with an idempotency key for a day; the first one stays.

        ``team_uid``: the uid of the request's team. Raises Conflict if the key came with another request (fingerprint).
        """
        now = self._clock()
        with self._write() as connection:
            connection.execute(delete(idempotency).where(idempotency.c.created_at < now - REMEMBERED))
            if self.recall(principal, key, fingerprint, team_uid=team_uid) is None:
                key_of = (idempotency.c.principal == principal, idempotency.c.key == key)
                connection.execute(delete(idempotency).where(*key_of))  # of an earlier team
                values = {"principal": principal, "key": key, "fingerprint": fingerprint, "team_uid": team_uid}
                connection.execute(insert(idempotency).values(**values, answer=dict(answer), created_at=now))

    def recall(
        self, principal: str, key: str, fingerprint: str, *, team_uid: str | None = None
    ) -> dict[str, Any] | None:
        """The stored answer to this key; raises Conflict if it belongs to another request.

        ``team_uid``: the uid of the current team. Answers about an earlier team of its name do not count.
        """
        table = idempotency
        fresh = table.c.created_at >= self._clock() - REMEMBERED
        query = select(table).where(table.c.principal == principal, table.c.key == key, fresh)
        with self._read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or (team_uid is not None and row.team_uid not in (None, team_uid)):
            return None
        if row.fingerprint != fingerprint:
            raise Conflict(
                f"Idempotency key '{key}' came with another request before.", remedy="Use a new key for a new request."
            )
        return dict(row.answer)


def _body(record: DatasetVersion | StepResult | Operation) -> dict[str, Any]:
    return record.model_dump(mode="json")


def _replace(connection: Connection, table: Table, key: Mapping[str, str], values: Mapping[str, Any]) -> None:
    # Writers take turns, so no other write comes between the two statements.
    where = and_(*(table.c[column] == value for column, value in key.items()))
    changed = connection.execute(update(table).where(where).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(table).values(**key, **values))
