"""Read objects as JSON text, composed from their columns: a list is read and sent without a model of any of its items.

Spec and status are stored as JSON that was validated when written; only fields with a column of their own are encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Literal, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Text,
    bindparam,
    cast,
    literal_column,
    select,
    tuple_,
    type_coerce,
    union_all,
)

from rayplane.gateway.store.database import Database
from rayplane.gateway.store.objects import label_is, not_found, position
from rayplane.gateway.store.paging import Page, check_limit, encode_cursor
from rayplane.gateway.store.tables import objects

View: TypeAlias = Literal["full", "summary"]


@dataclass(frozen=True)
class ObjectText:
    """One object as the API shows it."""

    json: str
    version: int
    """Its resource version."""


@dataclass(frozen=True)
class JobText:
    """The stored fields of a job that Ray's clients get."""

    name: str
    created_at: datetime
    spec: str
    status: str
    """Both spec and status are JSON."""


def _plain(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column's JSON as stored text; Postgres' driver would parse it."""
    return cast(column, Text)


# Instants stay as the driver returns them: UTC text of fixed width on SQLite, a datetime on Postgres.
_INSTANTS = [type_coerce(objects.c[name], Text).label(name) for name in ("created_at", "updated_at", "deleted_at")]
_METADATA: list[ColumnElement[Any]] = [
    *(objects.c.name, _plain(objects.c.labels).label("labels"), objects.c.uid, objects.c.generation),
    *(objects.c.resource_version, objects.c.owner, *_INSTANTS),
]
_FULL = [*_METADATA, _plain(objects.c.spec).label("spec"), _plain(objects.c.status).label("status")]
_SUMMARY = [*_METADATA, objects.c.phase]
_COLUMNS: dict[View, list[ColumnElement[Any]]] = {"full": _FULL, "summary": _SUMMARY}
_LIVE = objects.c.removed_at.is_(None)
_OF_TEAM = (objects.c.kind == bindparam("kind"), objects.c.team == bindparam("team"), _LIVE)


def _page(view: View, *, after: bool) -> Select[Any]:
    query = select(*_COLUMNS[view]).where(*_OF_TEAM)
    if after:
        last = tuple_(bindparam("created_at", type_=objects.c.created_at.type), bindparam("uid", type_=Text()))
        query = query.where(tuple_(objects.c.created_at, objects.c.uid) > last)
    return query.order_by(objects.c.created_at, objects.c.uid).limit(bindparam("most"))


# Built once: building one costs more than SQLite needs to answer.
_ONE = {
    view: select(*columns).where(*_OF_TEAM, objects.c.name == bindparam("name")) for view, columns in _COLUMNS.items()
}
_IS_THERE: Select[Any] = (
    select(literal_column("1")).select_from(objects).where(*_OF_TEAM, objects.c.name == bindparam("name"))
)
_PAGES = {(view, after): _page(view, after=after) for view in _COLUMNS for after in (False, True)}
_JOB = select(objects.c.name, objects.c.created_at, _plain(objects.c.spec).label("spec"), _plain(objects.c.status))
_NEWEST_JOBS = (
    _JOB.where(*_OF_TEAM, objects.c.cluster == bindparam("cluster"))
    .order_by(objects.c.created_at.desc(), objects.c.uid.desc())
    .limit(bindparam("most"))
)
# Two queries in one, each by an index of its own: for an OR the planner may read all jobs of the cluster.
_JOB_OF_RAY = union_all(
    _JOB.add_columns(objects.c.cluster).where(*_OF_TEAM, objects.c.external_id == bindparam("external_id")),
    _JOB.add_columns(objects.c.cluster).where(
        *_OF_TEAM, objects.c.name == bindparam("name"), objects.c.external_id.is_(None)
    ),
)


class Texts(Database):
    """Reads of objects for callers that only pass them on."""

    def text(self, kind: str, team: str, name: str, *, view: View = "full") -> ObjectText:
        """The object, also while it is being deleted; raises NotFound with the nearest existing name."""
        with self._read() as connection:
            row = connection.execute(_ONE[view], {"kind": kind, "team": team, "name": name}).one_or_none()
            if row is None:
                raise not_found(connection, kind, team, name)
        return ObjectText(_show([row], view, kind, team)[0], row.resource_version)

    def require(self, kind: str, team: str, name: str) -> None:
        """Raise NotFound, with the nearest existing name, unless the object exists, possibly being deleted."""
        with self._read() as connection:
            if connection.execute(_IS_THERE, {"kind": kind, "team": team, "name": name}).first() is None:
                raise not_found(connection, kind, team, name)

    def texts(
        self,
        kind: str,
        team: str,
        *,
        labels: Mapping[str, str] | None = None,
        limit: int = 100,
        cursor: str | None = None,
        view: View = "full",
    ) -> Page[str]:
        """A page of objects, as ``Objects.list`` has it; ``summary`` leaves out spec and status but for the phase.

        Raises InvalidInput on a bad cursor or limit.
        """
        values: dict[str, Any] = {"kind": kind, "team": team, "most": check_limit(limit) + 1}
        if cursor is not None:
            values["created_at"], values["uid"] = position(cursor)
        query = _PAGES[view, cursor is not None]
        if labels:
            query = query.where(*(label_is(key, value) for key, value in labels.items()))
        with self._read_many() as connection:
            rows = connection.execute(query, values).all()
        return Page(_show(rows[:limit], view, kind, team), _next(rows, limit))

    def newest_jobs(self, team: str, cluster: str, most: int) -> list[JobText]:
        """The newest ``most`` jobs on a cluster, in order of creation."""
        values = {"kind": "Job", "team": team, "cluster": cluster, "most": most}
        with self._read_many() as connection:
            rows = connection.execute(_NEWEST_JOBS, values).all()
        return [JobText(*row) for row in reversed(rows)]

    def job_of_ray(self, team: str, cluster: str, external_id: str, name: str) -> JobText | None:
        """The job on a cluster with this external id, or of this name and without one; None if there is neither."""
        values = {"kind": "Job", "team": team, "external_id": external_id, "name": name}
        with self._read() as connection:
            rows = connection.execute(_JOB_OF_RAY, values).all()
        return next((JobText(*row[:-1]) for row in rows if row.cluster == cluster), None)


def _next(rows: Sequence[Row[Any]], limit: int) -> str | None:
    if len(rows) <= limit:
        return None
    last = rows[limit - 1]
    return encode_cursor([_utc(last.created_at).isoformat(), last.uid])


def _show(rows: Iterable[Sequence[Any]], view: View, kind: str, team: str) -> list[str]:
    """The text of each row. Hot path of lists: the parts that all rows share are made once."""
    start = f'{{"kind":{quoted(kind)},"metadata":{{"name":'
    of_team = f',"team":{quoted(team) if team else "null"},"labels":'
    if view == "summary":
        return [
            f'{start}{quoted(row[0])}{of_team}{row[1]}{_metadata(*row[2:9])},"phase":{quoted(row[9])}}}' for row in rows
        ]
    return [
        f'{start}{quoted(row[0])}{of_team}{row[1]}{_metadata(*row[2:9])},"spec":{row[9]},"status":{row[10]}}}'
        for row in rows
    ]


def _metadata(
    uid: str,
    generation: int,
    version: int,
    owner: str,
    created_at: str | datetime,
    updated_at: str | datetime,
    deleted_at: str | datetime | None,
) -> str:
    return (
        f',"uid":{quoted(uid)},"generation":{generation},"resource_version":{version},"owner":{quoted(owner)},'
        f'"created_at":"{_instant(created_at)}","updated_at":"{_instant(updated_at)}",'
        f'"deleted_at":{"null" if deleted_at is None else _deleted(deleted_at)}}}'
    )


def _deleted(at: str | datetime) -> str:
    return f'"{_instant(at)}"'


def _instant(value: str | datetime) -> str:
    """The instant in the form of ``nouns.base.Instant``."""
    if isinstance(value, str):
        return f"{value[:10]}T{value[11:19] if value.endswith('.000000') else value[11:]}Z"
    return f"{value.astimezone(UTC).isoformat().removesuffix('+00:00')}Z"


def _utc(value: str | datetime) -> datetime:
    return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value.astimezone(UTC)
