"""Append-only rows: audit, leases (closed once), lineage, events. The database refuses other changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Row, bindparam, func, insert, or_, select, update

from rayplane.errors import NotFound
from rayplane.gateway.store.database import Database
from rayplane.gateway.store.paging import Page, check_limit, decode_cursor, encode_cursor
from rayplane.gateway.store.tables import audit, events, leases, lineage
from rayplane.nouns.cluster import Lease
from rayplane.nouns.events import Edge, Event

# Built once: every look at a cluster needs this query.
_LEASES_OF = (
    select(leases)
    .where(
        leases.c.cluster_uid == bindparam("cluster_uid"),
        or_(leases.c.ended_at.is_(None), leases.c.id.in_(bindparam("ids", expanding=True))),
    )
    .order_by(leases.c.seq)
)


class Ledger(Database):
    """The append-only tables."""

    def audit(
        self, principal: str, action: str, *, kind: str, team: str, name: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        """Add a row to the audit log; call it in the transaction of the write that it records."""
        values = {
            "time": self._clock(),
            "principal": principal,
            "action": action,
            "kind": kind,
            "team": team,
            "name": name,
            "detail": dict(detail or {}),
        }
        with self._write() as connection:
            connection.execute(insert(audit).values(values))

    def audit_log(
        self,
        team: str | None,
        *,
        action: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[dict[str, Any]]:
        """A page of the audit log, newest first: ``{id, time, principal, action, kind, team, name, detail}``.

        ``team`` None: rows of all teams and of none.
        """
        query = select(audit).order_by(audit.c.id.desc()).limit(check_limit(limit) + 1)
        if team is not None:
            query = query.where(audit.c.team == team)
        if action is not None:
            query = query.where(audit.c.action == action)
        if since is not None:
            # Ids are nearly in order of time, so the query skips older rows by id. ``id + 0``: for the bare id
            # the planner would search from the oldest row on.
            first = select(func.min(audit.c.id + 0)).where(audit.c.time >= since).scalar_subquery()
            query = query.where(audit.c.id >= first, audit.c.time >= since)
        if cursor is not None:
            query = query.where(audit.c.id < decode_cursor(cursor, int, 1)[0])
        with self._read() as connection:
            rows = connection.execute(query).all()
        following = encode_cursor([rows[limit - 1].id]) if len(rows) > limit else None
        return Page([dict(row._mapping) for row in rows[:limit]], following)

    def open_lease(self, lease: Lease) -> None:
        """Add a lease; one whose id is known stays as it is."""
        with self._write() as connection:
            if connection.execute(select(leases.c.id).where(leases.c.id == lease.id)).first() is None:
                connection.execute(insert(leases).values(lease.model_dump(exclude={"schema_version"})))

    def close_lease(self, id: str, ended_at: datetime) -> None:
        """End a lease, once: one already ended keeps its end. Raises NotFound for an unknown id."""
        with self._write() as connection:
            row = connection.execute(select(leases).where(leases.c.id == id)).one_or_none()
            if row is None:
                raise NotFound(f"There is no lease '{id}'.")
            if row.ended_at is None:
                # A clock that was set back must not fail the reconciler: such a lease has no duration.
                end = max(ended_at, row.started_at)
                connection.execute(update(leases).where(leases.c.id == id).values(ended_at=end))

    def leases(self, team: str | None = None, *, open_only: bool = False) -> list[Lease]:
        """The ledger in the order in which leases were opened."""
        query = select(leases).order_by(leases.c.seq)
        if team is not None:
            query = query.where(leases.c.team == team)
        if open_only:
            query = query.where(leases.c.ended_at.is_(None))
        with self._read() as connection:
            return [_lease(row) for row in connection.execute(query)]

    def leases_of(self, cluster_uid: str, *, ids: Collection[str] = ()) -> list[Lease]:
        """A cluster's leases that are open or have one of these ids, in the order in which they were opened."""
        with self._read() as connection:
            rows = connection.execute(_LEASES_OF, {"cluster_uid": cluster_uid, "ids": sorted(ids)})
            return [_lease(row) for row in rows]

    def leases_between(self, team: str, since: datetime, until: datetime) -> list[Lease]:
        """The team's leases that were open at any instant from ``since`` until ``until``."""
        query = (
            select(leases)
            .where(
                leases.c.team == team,
                leases.c.started_at < until,
                or_(leases.c.ended_at.is_(None), leases.c.ended_at > since),
            )
            .order_by(leases.c.seq)
        )
        with self._read() as connection:
            return [_lease(row) for row in connection.execute(query)]

    def lease_page(
        self, team: str | None, *, open_only: bool = False, limit: int = 100, cursor: str | None = None
    ) -> Page[Lease]:
        """A page of the ledger, in the order in which leases were opened."""
        query = select(leases).order_by(leases.c.seq).limit(check_limit(limit) + 1)
        if team is not None:
            query = query.where(leases.c.team == team)
        if open_only:
            query = query.where(leases.c.ended_at.is_(None))
        if cursor is not None:
            query = query.where(leases.c.seq > decode_cursor(cursor, int, 1)[0])
        with self._read() as connection:
            rows = connection.execute(query).all()
        following = encode_cursor([rows[limit - 1].seq]) if len(rows) > limit else None
        return Page([_lease(row) for row in rows[:limit]], following)

    def add_edges(self, team: str, edges: Iterable[Edge]) -> None:
        """Add edges of lineage; a known one is success."""
        now = self._clock()
        with self._write() as connection:
            for edge in dict.fromkeys((edge.source, edge.target) for edge in edges):
                source, target = edge
                known = select(lineage.c.id).where(
                    lineage.c.team == team, lineage.c.source == source, lineage.c.target == target
                )
                if connection.execute(known).first() is None:
                    row = {"team": team, "source": source, "target": target, "time": now}
                    connection.execute(insert(lineage).values(row))

    def edges(self, team: str, node: str, direction: Literal["up", "down"]) -> list[Edge]:
        """Every edge that leads to the node (up) or away from it (down), over any number of hops, oldest first."""
        near, far = (lineage.c.target, lineage.c.source) if direction == "up" else (lineage.c.source, lineage.c.target)
        reached = select(near.label("node")).where(lineage.c.team == team, near == node).cte("reached", recursive=True)
        # UNION, not UNION ALL: a node that was reached before ends the path, so that a cycle ends too.
        reached = reached.union(select(far).where(lineage.c.team == team, near == reached.c.node))
        query = (
            select(lineage.c.source, lineage.c.target)
            .where(lineage.c.team == team, near.in_(select(reached.c.node)))
            .order_by(lineage.c.id)
        )
        with self._read() as connection:
            return [Edge(source=row.source, target=row.target) for row in connection.execute(query)]

    def record_event(self, team: str, event: Event, *, job_uid: str | None = None) -> bool:
        """Add an event; False if the team already has one of this id."""
        known = select(events.c.seq).where(events.c.team == team, events.c.id == event.id)
        with self._write() as connection:
            if connection.execute(known).first() is not None:
                return False
            values = {
                "team": team,
                "id": event.id,
                "type": event.type,
                "job_uid": job_uid,
                "time": event.time,
                "recorded_at": self._clock(),
                "body": event.model_dump(mode="json"),
            }
            connection.execute(insert(events).values(values))
            return True

    def events(self, team: str, job_uids: Iterable[str], *, type: str | None = None) -> list[Event]:
        """The events of jobs in order of time, of one type or all."""
        query = (
            select(events.c.body)
            .where(events.c.team == team, events.c.job_uid.in_(sorted(set(job_uids))))
            .order_by(events.c.time, events.c.seq)
        )
        if type is not None:
            query = query.where(events.c.type == type)
        with self._read() as connection:
            return [Event.model_validate(row.body) for row in connection.execute(query)]


def _lease(row: Row[Any]) -> Lease:
    return Lease.model_validate({key: value for key, value in row._mapping.items() if key != "seq"})
