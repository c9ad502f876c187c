"""Store objects of all nouns in one table: put, get, list, status, deletion."""

from __future__ import annotations

import difflib
import json
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, overload

from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, insert, or_, select, tuple_, update

from rayplane.errors import Conflict, NotFound, PreconditionFailed
from rayplane.gateway.store.database import Database, to_json
from rayplane.gateway.store.paging import Page, check_limit, decode_cursor, encode_cursor, no_cursor
from rayplane.gateway.store.tables import objects, revision
from rayplane.gateway.store.typed import AnyObject, S, T, TypedObject
from rayplane.nouns.base import Metadata, Status, check_instant
from rayplane.nouns.noun_type import NounType

NO_CLUSTER = ""
"""Filter value for objects whose spec names no cluster."""
Change = Literal["created", "changed", "unchanged"]

# Statements of every look and every write, built once: building one costs more than SQLite needs to answer.
_BY_NAME = select(objects).where(
    objects.c.kind == bindparam("kind"),
    objects.c.team == bindparam("team"),
    objects.c.name == bindparam("name"),
    objects.c.removed_at.is_(None),
)
_BY_UID = select(objects).where(objects.c.uid == bindparam("uid"))
_UPDATE = update(objects).where(objects.c.uid == bindparam("which")).returning(*objects.c)
_IN_ORDER = (objects.c.created_at, objects.c.uid)
# Queries by phase ask for unfinished objects, which are few: find them by phase, then sort. For the bare columns SQLite
# would instead walk all objects of the team, by the index that has this order.
_SORTED = tuple(func.coalesce(column, column) for column in _IN_ORDER)
_WRITTEN = select(
    *(objects.c.uid, objects.c.kind, objects.c.phase, objects.c.resource_version),
    *(objects.c.generation, objects.c.deleted_at, objects.c.removed_at),
)
_PRESENT = _WRITTEN.where(objects.c.removed_at.is_(None)).order_by(objects.c.resource_version)
_WRITTEN_AFTER = _WRITTEN.where(objects.c.resource_version > bindparam("after")).order_by(objects.c.resource_version)


@dataclass(frozen=True)
class Written:
    """The fields by which the loop decides whether to look at an object; cheap to read by the thousand."""

    uid: str
    kind: str
    phase: str
    version: int
    """Resource version of the last write."""
    wanted: tuple[int, datetime | None]
    """(generation, when it was deleted): changes with the wanted state, not with the observed one."""
    gone: bool
    """True if it was removed and is history."""


Kind: TypeAlias = str | NounType[Any, Any]
"""A noun, which types the result, or its kind."""
Changes: TypeAlias = list[Written]  # in the class below, `list` is its method


class Filters(TypedDict, total=False):
    """Filters of objects; one that is None or missing lets all through."""

    labels: Mapping[str, str] | None
    phases: Collection[str] | None
    cluster: str | None
    """Only those whose spec names it; NO_CLUSTER: those that name none."""


class Paged(Filters, total=False):
    """Filters, and the page that is asked for."""

    limit: int
    cursor: str | None


class Objects(Database):
    """The objects table. Every write raises the object's resource version to the newest of the whole store."""

    def put(
        self,
        kind: str,
        team: str,
        name: str,
        spec: Mapping[str, Any],
        *,
        labels: Mapping[str, str] | None = None,
        owner: str,
        if_match: int | None = None,
        if_absent: bool = False,
        status: Status | Mapping[str, Any] | None = None,
        external_id: str | None = None,
    ) -> tuple[AnyObject, Change]:
        """Create the object, or change its spec and labels (None keeps them); equal ones change nothing.

        ``owner``, ``status`` and ``external_id`` (another unique name within kind and team) only count at its creation.
        Raises PreconditionFailed if ``if_match`` is not its resource version, or if it exists in spite of
        ``if_absent``; Conflict if it is being deleted or if another object has the external id.
        """
        with self._write() as connection:
            row = _writable(connection, kind, team, name, if_match, if_absent)
            if row is None:
                return self._create(
                    connection, kind, team, name, spec, labels or {}, owner, status, external_id
                ), "created"
            return self._change(connection, row, spec, labels)

    def check_put(
        self, kind: str, team: str, name: str, *, if_match: int | None = None, if_absent: bool = False
    ) -> None:
        """Raise what ``put`` would raise for any spec: PreconditionFailed, or Conflict for a deletion."""
        with self._read() as connection:
            _writable(connection, kind, team, name, if_match, if_absent)

    @overload
    def get(self, kind: NounType[S, T], team: str, name: str) -> TypedObject[S, T]: ...
    @overload
    def get(self, kind: str, team: str, name: str) -> AnyObject: ...
    def get(self, kind: Kind, team: str, name: str) -> AnyObject:
        """The object, also while it is being deleted; raises NotFound with the nearest existing name."""
        with self._read() as connection:
            row = _by_name(connection, _name_of(kind), team, name)
            if row is None:
                raise not_found(connection, _name_of(kind), team, name)
            return _object(row)

    @overload
    def get_or_none(self, kind: NounType[S, T], team: str, name: str) -> TypedObject[S, T] | None: ...
    @overload
    def get_or_none(self, kind: str, team: str, name: str) -> AnyObject | None: ...
    def get_or_none(self, kind: Kind, team: str, name: str) -> AnyObject | None:
        """The object, also while it is being deleted; None if it does not exist. Searches for no nearest name."""
        with self._read() as connection:
            row = _by_name(connection, _name_of(kind), team, name)
            return None if row is None else _object(row)

    @overload
    def find(self, kind: NounType[S, T], team: str, external_id: str) -> TypedObject[S, T] | None: ...
    @overload
    def find(self, kind: str, team: str, external_id: str) -> AnyObject | None: ...
    def find(self, kind: Kind, team: str, external_id: str) -> AnyObject | None:
        """The object with this external id, if there is one."""
        where = (objects.c.kind == _name_of(kind), objects.c.team == team, objects.c.external_id == external_id)
        with self._read() as connection:
            row = connection.execute(select(objects).where(*where, objects.c.removed_at.is_(None))).one_or_none()
            return None if row is None else _object(row)

    @overload
    def get_by_uid(self, uid: str, kind: NounType[S, T], *, removed: bool = False) -> TypedObject[S, T]: ...
    @overload
    def get_by_uid(self, uid: str, kind: None = None, *, removed: bool = False) -> AnyObject: ...
    def get_by_uid(self, uid: str, kind: NounType[Any, Any] | None = None, *, removed: bool = False) -> AnyObject:
        """The object with this uid, which the caller knows to be of ``kind``; raises NotFound. ``removed`` includes
        history."""
        with self._read() as connection:
            obj = _object(self._by_uid(connection, uid, removed=removed))
        assert kind is None or obj.kind == kind.kind, f"{obj.kind} is not {kind.kind}"
        return obj

    @overload
    def list(self, kind: NounType[S, T], team: str | None = None, **page: Unpack[Paged]) -> Page[TypedObject[S, T]]: ...
    @overload
    def list(self, kind: str, team: str | None = None, **page: Unpack[Paged]) -> Page[AnyObject]: ...
    def list(
        self,
        kind: Kind,
        team: str | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[Filters],
    ) -> Page[Any]:
        """A page of objects, oldest first; ``team`` None means all. Raises InvalidInput on a bad cursor or limit."""
        query = (
            select(objects)
            .where(*_filter(_name_of(kind), team, **filters), objects.c.removed_at.is_(None))
            .order_by(*(_IN_ORDER if filters.get("phases") is None else _SORTED))
            .limit(check_limit(limit) + 1)
        )
        if cursor is not None:
            created_at, uid = position(cursor)
            query = query.where(tuple_(objects.c.created_at, objects.c.uid) > tuple_(created_at, uid))
        with self._read() as connection:
            rows = connection.execute(query).all()
        items = [_object(row) for row in rows[:limit]]
        last = (
            encode_cursor([rows[limit - 1].created_at.isoformat(), rows[limit - 1].uid]) if len(rows) > limit else None
        )
        return Page(items, last)

    @overload
    def each(
        self, kind: NounType[S, T], team: str | None = None, **filters: Unpack[Filters]
    ) -> Iterator[TypedObject[S, T]]: ...
    @overload
    def each(self, kind: str, team: str | None = None, **filters: Unpack[Filters]) -> Iterator[AnyObject]: ...
    def each(self, kind: Kind, team: str | None = None, **filters: Unpack[Filters]) -> Iterator[AnyObject]:
        """All objects, oldest first, page by page. ``cluster``: only those whose spec names it (NO_CLUSTER: none)."""
        cursor: str | None = None
        while True:
            page = self.list(_name_of(kind), team, limit=500, cursor=cursor, **filters)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def count(
        self,
        kind: str,
        team: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        phases: Collection[str] | None = None,
        removed: bool = False,
    ) -> int:
        """The number of objects; ``removed`` includes history."""
        query = select(func.count()).select_from(objects).where(*_filter(kind, team, labels=labels, phases=phases))
        if not removed:
            query = query.where(objects.c.removed_at.is_(None))
        with self._read() as connection:
            return int(connection.execute(query).scalar_one())

    def count_by_phase(self) -> dict[tuple[str, str], int]:
        """(kind, phase) -> number of objects."""
        query = (
            select(objects.c.kind, objects.c.phase, func.count())
            .where(objects.c.removed_at.is_(None))
            .group_by(objects.c.kind, objects.c.phase)
        )
        with self._read() as connection:
            return {(kind, phase): int(count) for kind, phase, count in connection.execute(query)}

    def written(self, after: int | None) -> tuple[Changes, int]:
        """(objects written after this resource version, the newest version); None: all current objects.

        Versions are committed in order, so a caller that passes the newest one next time misses nothing.
        """
        with self._read() as connection:
            if after is None:
                # Read first: a write committed between the two queries is then returned twice rather than never.
                newest = int(connection.execute(select(revision.c.value)).scalar_one())
                rows = connection.execute(_PRESENT).all()
            else:
                newest, rows = after, connection.execute(_WRITTEN_AFTER, {"after": after}).all()
        items = [Written(row[0], row[1], row[2], row[3], (row[4], row[5]), row[6] is not None) for row in rows]
        return items, max([newest, *(item.version for item in items)])

    def set_status(
        self,
        uid: str,
        status: Status | Mapping[str, Any],
        *,
        expect: int | None = None,
        wanted: bool = False,
        current: AnyObject | None = None,
    ) -> AnyObject:
        """Replace the status; an equal one changes nothing. Raises Conflict if the resource version is not ``expect``.

        To change a part of it without losing another's change, read and write in one ``transaction()``. ``wanted``: the
        status states a user's wish, as a spec does, so the generation rises. ``current``: the object as this very
        transaction read it, to save another read.
        """
        plain = _plain(status)
        if current is not None and current.status_data == plain:
            return current
        with self._write() as connection:
            if current is not None:
                values = {"status": plain, "phase": str(plain.get("phase", ""))}
                return self._update(connection, uid, **values, generation=current.metadata.generation + wanted)
            row = self._by_uid(connection, uid)
            if expect is not None and row.resource_version != expect:
                raise Conflict(
                    f"{_title(row.kind, row.team, row.name)} is at version {row.resource_version}, not {expect}.",
                    remedy="Read it again and decide anew.",
                )
            if row.status == plain:
                return _object(row)
            values = {"status": plain, "phase": str(plain.get("phase", ""))}
            return self._update(connection, uid, **values, generation=row.generation + wanted)

    def update_spec(self, uid: str, spec: Mapping[str, Any]) -> AnyObject:
        """Replace the spec and raise the generation; an equal one changes nothing."""
        plain = _plain(spec)
        with self._write() as connection:
            row = self._by_uid(connection, uid)
            if row.spec == plain:
                return _object(row)
            return self._update(connection, uid, spec=plain, generation=row.generation + 1)

    def mark_deleted(self, uid: str) -> AnyObject:
        """Mark the object for deletion; one already marked stays as it is."""
        with self._write() as connection:
            row = self._by_uid(connection, uid)
            if row.deleted_at is not None:
                return _object(row)
            return self._update(connection, uid, deleted_at=self._clock())

    def remove(self, uid: str) -> None:
        """Free the object's name; its row stays as history. One already removed is success. Raises NotFound."""
        with self._write() as connection:
            row = self._by_uid(connection, uid, removed=True)
            if row.removed_at is None:
                now = self._clock()
                self._update(connection, uid, removed_at=now, deleted_at=row.deleted_at or now)

    def _create(
        self,
        connection: Connection,
        kind: str,
        team: str,
        name: str,
        spec: Mapping[str, Any],
        labels: Mapping[str, str],
        owner: str,
        status: Status | Mapping[str, Any] | None,
        external_id: str | None,
    ) -> AnyObject:
        taken = None if external_id is None else self.find(kind, team, external_id)
        if taken is not None:
            raise Conflict(
                f"{_title(kind, team, taken.metadata.name)} is known as '{external_id}' already.",
                remedy="Choose another id.",
            )
        now, plain, plain_spec = self._clock(), _plain(status or {}), _plain(spec)
        values = {
            "uid": uuid.uuid4().hex,
            "kind": kind,
            "team": team,
            "name": name,
            "external_id": external_id,
            "generation": 1,
            "resource_version": self._next_version(connection),
            "labels": dict(labels),
            "owner": owner,
            "created_at": now,
            "updated_at": now,
            "spec": plain_spec,
            "status": plain,
            "phase": str(plain.get("phase", "")),
            "cluster": _cluster(plain_spec),
        }
        return _object(connection.execute(insert(objects).values(values).returning(*objects.c)).one())

    def _change(
        self, connection: Connection, row: Row[Any], spec: Mapping[str, Any], labels: Mapping[str, str] | None
    ) -> tuple[AnyObject, Change]:
        plain = _plain(spec)
        new_labels = row.labels if labels is None else dict(labels)
        if row.spec == plain and row.labels == new_labels:
            return _object(row), "unchanged"
        generation = row.generation + (row.spec != plain)
        return self._update(connection, row.uid, spec=plain, labels=new_labels, generation=generation), "changed"

    def _update(self, connection: Connection, uid: str, **values: Any) -> AnyObject:
        values["resource_version"] = self._next_version(connection)
        values["updated_at"] = self._clock()
        if "spec" in values:
            values["cluster"] = _cluster(values["spec"])
        self._note_write(uid)
        return _object(connection.execute(_UPDATE, {**values, "which": uid}).one())

    def _by_uid(self, connection: Connection, uid: str, *, removed: bool = False) -> Row[Any]:
        row = connection.execute(_BY_UID, {"uid": uid}).one_or_none()
        if row is None or (row.removed_at is not None and not removed):
            raise NotFound(f"There is no object with uid '{uid}'.", remedy="It was deleted, or never was.")
        return row


def check_precondition(title: str, version: int | None, *, if_match: int | None, if_absent: bool = False) -> None:
    """Raise PreconditionFailed unless an object's version (None: it does not exist) is what a request expects."""
    if if_match is not None and version != if_match:
        raise PreconditionFailed(
            f"{title} is at version {version}, not {if_match}."
            if version is not None
            else f"{title} is not there, so it has no version {if_match}.",
            remedy="Get it again and repeat the change on what it is now.",
        )
    if if_absent and version is not None:
        raise PreconditionFailed(
            f"{title} is there already, at version {version}.",
            remedy="Choose another name, or change this one: send its ETag as If-Match.",
        )


def _writable(
    connection: Connection, kind: str, team: str, name: str, if_match: int | None, if_absent: bool
) -> Row[Any] | None:
    """The object's row, None if it does not exist; raises PreconditionFailed or Conflict if it can't be written."""
    row, title = _by_name(connection, kind, team, name), _title(kind, team, name)
    check_precondition(title, row.resource_version if row else None, if_match=if_match, if_absent=if_absent)
    if row is not None and row.deleted_at is not None:
        raise Conflict(f"{title} is being deleted.", remedy="Wait until it is gone, then apply it again.")
    return row


def _by_name(connection: Connection, kind: str, team: str, name: str) -> Row[Any] | None:
    return connection.execute(_BY_NAME, {"kind": kind, "team": team, "name": name}).one_or_none()


def _filter(
    kind: str,
    team: str | None,
    *,
    labels: Mapping[str, str] | None = None,
    phases: Collection[str] | None = None,
    cluster: str | None = None,
) -> Iterator[ColumnElement[bool]]:
    yield objects.c.kind == kind
    if team is not None:
        yield objects.c.team == team
    if cluster is not None:
        yield objects.c.cluster.is_(None) if cluster == NO_CLUSTER else objects.c.cluster == cluster
    if phases is not None:
        yield objects.c.phase.in_(sorted(phases))
    for key, value in (labels or {}).items():
        yield label_is(key, value)


def label_is(key: str, value: str) -> ColumnElement[bool]:
    """The condition that an object has a label."""
    # SQLite (3.40) compares a key in its stored spelling, with escapes.
    spellings = dict.fromkeys((key, json.dumps(key)[1:-1]))
    return or_(*(objects.c.labels[spelling].as_string() == value for spelling in spellings))


def position(cursor: str) -> tuple[datetime, str]:
    """(creation time of the last object of a page, its uid); raises InvalidInput on a bad cursor."""
    created_at, uid = decode_cursor(cursor, str, 2)
    try:
        instant = datetime.fromisoformat(str(created_at))
        if instant.tzinfo is None:
            raise ValueError("it has no zone")
        check_instant(instant)
    except ValueError as exc:
        raise no_cursor(cursor) from exc
    return instant, str(uid)


def _name_of(kind: Kind) -> str:
    return kind if isinstance(kind, str) else kind.kind


def _plain(value: Status | Mapping[str, Any]) -> dict[str, Any]:
    """The value as it reads back from JSON, so that it compares equal to the stored one."""
    data = value.model_dump(mode="json") if isinstance(value, Status) else dict(value)
    plain: dict[str, Any] = json.loads(to_json(data))
    return plain


def _cluster(spec: Mapping[str, Any]) -> str | None:
    """The cluster that a spec names."""
    named = spec.get("cluster")
    return named if isinstance(named, str) else None


def _object(row: Row[Any]) -> AnyObject:
    return TypedObject(
        kind=row.kind,
        # The row was validated when it was written; a stricter rule since then must not hide the object.
        metadata=Metadata.model_construct(
            name=row.name,
            team=row.team or None,
            labels=dict(row.labels),
            uid=row.uid,
            generation=row.generation,
            resource_version=row.resource_version,
            owner=row.owner,
            created_at=row.created_at,
            updated_at=row.updated_at,
            deleted_at=row.deleted_at,
        ),
        spec_data=row.spec,
        status_data=row.status,
    )


def _title(kind: str, team: str, name: str) -> str:
    return f"{kind} '{f'{team}/' if team else ''}{name}'"


def not_found(connection: Connection, kind: str, team: str, name: str) -> NotFound:
    """The NotFound error for an object, with the nearest existing name."""
    live = (objects.c.kind == kind, objects.c.team == team, objects.c.removed_at.is_(None))
    names = [row.name for row in connection.execute(select(objects.c.name).where(*live).limit(1000))]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        remedy = f"Did you mean '{near[0]}'?"
    elif names:
        remedy = f"There are: {', '.join(sorted(names)[:10])}{', ...' if len(names) > 10 else ''}."
    else:
        remedy = f"There is no {kind} {f'in team {team!r} ' if team else ''}yet."
    return NotFound(f"{_title(kind, team, name)} is not there.", remedy=remedy)
