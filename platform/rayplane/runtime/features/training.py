"""Training frames: entity rows joined with the features known at their instants, through Feast's offline store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureService, OnDemandFeatureView
from feast.errors import FeastObjectNotFoundException

from rayplane.errors import Failed, InvalidData, NotFound
from rayplane.runtime.features.project import store

EVENT_TIMESTAMP = "event_timestamp"
_ROW = "rayplane_row"


def training_frame(entity_table: pa.Table, feature_service: str) -> pa.Table:
    """Append the service's features to ``entity_table``, keeping each row once, their order and all other columns.

    The table holds each view's join keys, the request columns of on-demand views and ``event_timestamp`` (an instant
    with a zone, not null): features are those with the newest timestamp at or before it and within the view's TTL,
    else null. Raises NotFound for an unknown service, InvalidData naming a missing or clashing column, Failed if the
    join loses or doubles a row.
    """
    feast = store()
    service = get_service(feature_service)
    names = feature_names(service)
    _check(entity_table, names)
    needed = [*_columns_needed(service), EVENT_TIMESTAMP]
    missing = [name for name in needed if name not in entity_table.column_names]
    if missing:
        raise InvalidData(
            f"The entity rows have no column '{missing[0]}', which '{feature_service}' needs.",
            remedy=f"It needs {', '.join(needed)}.",
        )
    rows = entity_table.select(needed)
    # Feast's DuckDB store casts microseconds; nanoseconds break it.
    index = rows.column_names.index(EVENT_TIMESTAMP)
    rows = rows.set_column(index, EVENT_TIMESTAMP, rows[EVENT_TIMESTAMP].cast(pa.timestamp("us", tz="UTC")))
    rows = rows.append_column(_ROW, pa.array(np.arange(rows.num_rows, dtype=np.int64)))
    joined = feast.get_historical_features(entity_df=rows.to_pandas(), features=service).to_arrow()
    return _attach(entity_table, joined, names)


def get_service(name: str) -> FeatureService:
    """A registered feature service. Raises NotFound listing the registered ones."""
    feast = store()
    try:
        return feast.get_feature_service(name)
    except FeastObjectNotFoundException as exc:
        known = ", ".join(sorted(service.name for service in feast.list_feature_services()))
        raise NotFound(
            f"Feature service '{feast.project}/{name}' is not registered.",
            remedy=f"Known: {known}." if known else "Apply the feature definitions first.",
        ) from exc


def feature_names(service: FeatureService) -> list[str]:
    """The service's feature columns, in its order."""
    return [field.name for projection in service.feature_view_projections for field in projection.features]


def _columns_needed(service: FeatureService) -> list[str]:
    feast, needed = store(), dict[str, None]()
    queue = [projection.name for projection in service.feature_view_projections]
    for name in queue:
        view: Any = feast.registry.get_any_feature_view(name, feast.project)
        if isinstance(view, OnDemandFeatureView):
            needed.update(dict.fromkeys(view.get_request_data_schema()))
            queue.extend(source.name for source in view.source_feature_view_projections.values())
        else:
            needed.update(dict.fromkeys(column.name for column in view.entity_columns))
    return list(needed)


def _check(table: pa.Table, names: list[str]) -> None:
    if not table.num_rows:
        raise InvalidData(
            "There are no entity rows to join features to.", remedy="Look at the dataset that they come from."
        )
    clash = [name for name in names if name in table.column_names]
    if clash:
        raise InvalidData(
            f"The entity rows already have a column '{clash[0]}', which is a feature.",
            remedy="Rename or drop it there.",
        )
    if EVENT_TIMESTAMP not in table.column_names or not pa.types.is_timestamp(table.schema.field(EVENT_TIMESTAMP).type):
        raise InvalidData(
            f"The entity rows have no instants in a column '{EVENT_TIMESTAMP}'.",
            remedy="Give each row the instant at which its features are to be known.",
        )
    if table.schema.field(EVENT_TIMESTAMP).type.tz is None or table[EVENT_TIMESTAMP].null_count:
        raise InvalidData(
            f"Column '{EVENT_TIMESTAMP}' of the entity rows has no zone or has nulls.",
            remedy="Make it a timestamp in UTC that is never null.",
        )


def _attach(entity_table: pa.Table, joined: pa.Table, names: list[str]) -> pa.Table:
    # DuckDB's joins keep no order, so each row carries its number, which also shows if a row was lost or doubled.
    order = pc.sort_indices(joined[_ROW])
    numbers = np.asarray(joined[_ROW].take(order), dtype=np.int64)
    if not np.array_equal(numbers, np.arange(entity_table.num_rows)):
        raise Failed(
            f"The join of {entity_table.num_rows} entity rows gave {joined.num_rows}.",
            remedy="Some view has several rows for an entity at one instant: apply the feature definitions again.",
        )
    for name in names:
        entity_table = entity_table.append_column(name, joined[name].take(order))
    return entity_table
