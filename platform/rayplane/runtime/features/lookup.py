"""Read online features as known at a request's instant: apply the TTL, then compute the on-demand views.

Feast's own online read ignores a view's TTL, and would compute on-demand features from expired values; so this module
reads view by view. It uses a private API of Feast (the provider's read): Feast's version is pinned, and tests cover it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from feast import FeatureStore, FeatureView, Field, OnDemandFeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import (
    feast_value_type_to_pa,
    feast_value_type_to_python_type,
    python_values_to_proto_values,
)
from feast.value_type import ValueType

from rayplane.errors import InvalidData, InvalidInput
from rayplane.runtime.features.project import store
from rayplane.runtime.features.training import feature_names, get_service

BATCH = 1000
"""Entities per query: SQLite allows some ten thousand parameters."""


def online(
    feature_service: str, rows: Sequence[Mapping[str, Any]], at: datetime | Sequence[datetime]
) -> dict[str, list[Any]]:
    """The service's features for each row, as known at ``at`` (one instant, or one for each row, with a zone).

    A row holds join keys and the request columns of on-demand views. Returns feature -> one value for each row, in
    the service's order; None for an unknown entity, a value older than its view's TTL, and a value that became known
    only after ``at``, since the online store keeps only the newest. Raises NotFound for an unknown service, InvalidData
    naming a missing column or one of the wrong type, InvalidInput for an instant without a zone.
    """
    plan = _plan(feature_service)
    instants = _instants(at, len(rows))
    columns: dict[str, Any] = _request_columns(plan, rows)
    for view in plan.views:
        columns.update(_read(plan, view, rows, instants))
    if plan.computed and rows:
        table = pa.table(columns)
        for odfv in plan.computed:
            computed = odfv.transform_arrow(table)
            columns.update({field.name: computed[field.name] for field in odfv.features})
    return {name: columns[name].to_pylist() for name in plan.names} if rows else {name: [] for name in plan.names}


@dataclass(frozen=True)
class StoredView:
    """One view of the online store, with the keys and features to read and their names."""

    view: FeatureView
    keys: tuple[tuple[str, str, ValueType], ...]
    """Join key in the store, column of the request, type."""
    features: tuple[tuple[str, pa.DataType], ...]
    ttl: timedelta | None


@dataclass(frozen=True)
class _Plan:
    store: FeatureStore
    service: str
    names: tuple[str, ...]
    views: tuple[StoredView, ...]
    computed: tuple[OnDemandFeatureView, ...]
    requests: tuple[tuple[str, pa.DataType], ...]


def arrow_types(fields: Sequence[Field]) -> dict[str, pa.DataType]:
    """Feature -> Arrow type of Feast's fields."""
    return {field.name: feast_value_type_to_pa(field.dtype.to_value_type()) for field in fields}


def stored_view(view: FeatureView, features: Mapping[str, pa.DataType], renamed: Mapping[str, str]) -> StoredView:
    """Describe the read of a registered view; ``renamed`` maps join keys to columns of the request, if they differ."""
    keys = tuple((c.name, renamed.get(c.name, c.name), c.dtype.to_value_type()) for c in view.entity_columns)
    return StoredView(view=view, keys=keys, features=tuple(features.items()), ttl=view.ttl or None)


_plans: dict[tuple[int, str], _Plan] = {}
_planning = threading.Lock()
_reading = threading.Lock()
"""Taken for each read: Feast reads SQLite through one connection per process."""


def _plan(name: str) -> _Plan:
    feast = store()
    key = (id(feast), name)
    with _planning:
        if key not in _plans:
            _plans[key] = _make_plan(feast, name)
        return _plans[key]


def _make_plan(feast: FeatureStore, name: str) -> _Plan:
    service = get_service(name)
    stored: dict[str, tuple[FeatureView, dict[str, pa.DataType], dict[str, str]]] = {}
    computed: list[OnDemandFeatureView] = []
    requests: dict[str, pa.DataType] = {}
    queue: list[Any] = list(service.feature_view_projections)
    for projection in queue:
        view: Any = feast.registry.get_any_feature_view(projection.name, feast.project)
        if isinstance(view, OnDemandFeatureView):
            computed.append(view)
            schema = view.get_request_data_schema()
            requests.update({name: feast_value_type_to_pa(type_) for name, type_ in schema.items()})
            queue.extend(view.source_feature_view_projections.values())
            continue
        features = stored.setdefault(projection.name_to_use(), (view, {}, projection.join_key_map or {}))[1]
        features.update(arrow_types(projection.features))
    return _Plan(
        store=feast,
        service=name,
        names=tuple(feature_names(service)),
        views=tuple(stored_view(view, features, keys) for view, features, keys in stored.values()),
        computed=tuple(computed),
        requests=tuple(requests.items()),
    )


def _instants(at: datetime | Sequence[datetime], count: int) -> list[datetime]:
    instants = [at] * count if isinstance(at, datetime) else list(at)
    if len(instants) != count:
        raise InvalidInput(f"There are {count} rows but {len(instants)} instants.", remedy="Give one for each row.")
    for instant in instants:
        if instant.tzinfo is None:
            raise InvalidInput(
                f"The instant {instant.isoformat()} has no zone.", remedy="Write it in UTC, ending in Z."
            )
    return [instant.astimezone(UTC) for instant in instants]


def _request_columns(plan: _Plan, rows: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array[Any]]:
    return {name: _array(name, [_cell(plan, row, name) for row in rows], type_) for name, type_ in plan.requests}


def _cell(plan: _Plan, row: Mapping[str, Any], name: str) -> Any:
    try:
        return row[name]
    except KeyError as exc:
        raise InvalidData(
            f"A row has no column '{name}', which feature service '{plan.service}' needs.",
            remedy="Add it to the request.",
        ) from exc


def _read(
    plan: _Plan, view: StoredView, rows: Sequence[Mapping[str, Any]], instants: list[datetime]
) -> dict[str, pa.Array[Any]]:
    keys = [tuple(_cell(plan, row, column) for _, column, _ in view.keys) for row in rows]
    known = list(dict.fromkeys(key for key in keys if None not in key))
    stored = dict(zip(known, read_rows(plan.store, view, known), strict=True))
    values: dict[str, list[Any]] = {name: [] for name, _ in view.features}
    for key, instant in zip(keys, instants, strict=True):
        stamp, cells = stored.get(key, (None, {}))
        valid = stamp is not None and stamp <= instant and (view.ttl is None or stamp + view.ttl >= instant)
        for name, column in values.items():
            column.append(cells.get(name) if valid else None)
    return {name: _array(name, values[name], type_) for name, type_ in view.features}


def read_rows(
    feast: FeatureStore, view: StoredView, keys: list[tuple[Any, ...]]
) -> list[tuple[datetime | None, dict[str, Any]]]:
    """Read each entity's newest row from the online store: its instant (UTC, whole seconds), and feature -> value.

    (None, {}) for an unknown entity.
    """
    names = [name for name, _ in view.features]
    protos = _entity_keys(view, keys)
    answers: list[tuple[datetime | None, dict[str, Any]]] = []
    provider = feast._get_provider()
    for start in range(0, len(protos), BATCH):
        with _reading:
            batch = provider.online_read(feast.config, view.view, protos[start : start + BATCH], names)
        for stamp, cells in batch:
            values = {n: feast_value_type_to_python_type(cells[n]) for n in names if n in cells} if cells else {}
            answers.append((stamp, values))
    return answers


def _entity_keys(view: StoredView, keys: list[tuple[Any, ...]]) -> list[EntityKey]:
    if not keys:
        return []
    columns = []
    for index, (_, column, type_) in enumerate(view.keys):
        # Feast would convert a 7 to the string "7", and find no such entity; Arrow refuses to.
        values = _array(column, [key[index] for key in keys], feast_value_type_to_pa(type_)).to_pylist()
        columns.append(python_values_to_proto_values(values, type_))
    joins = [join for join, _, _ in view.keys]
    return [EntityKey(join_keys=joins, entity_values=values) for values in zip(*columns, strict=True)]


def _array(name: str, values: list[Any], type_: pa.DataType) -> pa.Array[Any]:
    try:
        return pa.array(values, type=type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as exc:
        raise InvalidData(f"Column '{name}' does not fit its type {type_}: {exc}.") from exc
