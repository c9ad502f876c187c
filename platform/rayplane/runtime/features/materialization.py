"""Write the newest feature values into the online store, and verify them by reading them back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
from feast import FeatureStore, FeatureView

from rayplane.errors import Failed, InvalidData, InvalidInput, NotFound
from rayplane.nouns.feature import Materialization
from rayplane.runtime import report
from rayplane.runtime.features.lookup import StoredView, arrow_types, read_rows, stored_view
from rayplane.runtime.features.project import store
from rayplane.runtime.features.registration import file_source, source_of, view_version
from rayplane.text import sql_name

SAMPLE = 2000
"""Entities of each view that are read back and compared with the dataset."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def materialize(views: Sequence[str] | None = None, *, end: datetime) -> Materialization:
    """Write, for every entity of the views (default: all), its newest row at or before ``end`` into the online store.

    Before it reports the materialization, it reads a sample back and compares it with the datasets. It writes rows of
    any age: a reader applies the view's TTL at its own instant. Raises InvalidInput for an ``end`` without a zone,
    NotFound for an unknown view, InvalidData if no view has a row by then, Failed if the online store returns other
    values than were written.
    """
    if end.tzinfo is None:
        raise InvalidInput(f"The instant {end.isoformat()} has no zone.", remedy="Write it in UTC, ending in Z.")
    end = end.astimezone(UTC)
    feast = store()
    chosen = _views(feast, views)
    feast.materialize(start_date=_EPOCH, end_date=end, feature_views=[view.name for view in chosen])
    rows = {view.name: _verify(feast, view, end) for view in chosen}
    if not any(rows.values()):
        raise InvalidData(f"No feature has a value at or before {end.isoformat()}.", remedy="Choose a later instant.")
    record = Materialization(views=[view_version(view) for view in chosen], end=end, rows=rows)
    report.emit("features.materialized", record.model_dump(mode="json"))
    return record


def latest_event(views: Sequence[str] | None = None) -> datetime:
    """The newest event timestamp of the views' datasets. Raises NotFound for an unknown view, InvalidData if all are
    empty.
    """
    newest = [_newest(view) for view in _views(store(), views)]
    known = [instant for instant in newest if instant is not None]
    if not known:
        raise InvalidData(
            "The datasets of the feature views have no rows.", remedy="Look at the steps that publish them."
        )
    return max(known)


def _views(feast: FeatureStore, names: Sequence[str] | None) -> list[FeatureView]:
    known = {view.name: view for view in feast.list_feature_views(allow_cache=False) if view.online}
    missing = [name for name in names or () if name not in known]
    if missing or not known:
        raise NotFound(
            f"Feature view '{feast.project}/{missing[0]}' is not registered."
            if missing
            else "No feature view is registered.",
            remedy=f"Known: {', '.join(sorted(known))}." if known else "Apply the feature definitions first.",
        )
    return [known[name] for name in (names or sorted(known))]


def _newest(view: FeatureView) -> datetime | None:
    stamp = sql_name(file_source(view).timestamp_field)
    with _duckdb() as connection:
        [(newest,)] = connection.execute(
            f"SELECT epoch_us(max({stamp})::TIMESTAMPTZ) FROM read_parquet(?)",
            [source_of(view)],
        ).fetchall()
    return None if newest is None else _EPOCH + timedelta(microseconds=newest)


def _verify(feast: FeatureStore, view: FeatureView, end: datetime) -> int:
    """Compare a sample of the online rows with the dataset; returns the number of the view's entities at ``end``."""
    stored = stored_view(view, arrow_types(view.features), {})
    entities, expected = _expected(view, stored, end)
    keys = list(zip(*(expected[join].to_pylist() for join, _, _ in stored.keys), strict=True))
    answers = read_rows(feast, stored, keys)
    columns = {name: expected[name].cast(type_).to_pylist() for name, type_ in stored.features}
    for row, (key, instant, (stamp, values)) in enumerate(
        zip(keys, expected["rayplane_at"].to_pylist(), answers, strict=True)
    ):
        wanted = {name: column[row] for name, column in columns.items()}
        # Feast's SQLite store truncates timestamps to whole seconds.
        if stamp != instant.replace(microsecond=0) or any(not _same(values.get(n), wanted[n]) for n in wanted):
            raise Failed(
                f"The online store does not hold what was materialized: view '{view.name}', entity {key}: "
                f"{stamp} {values}, "
                f"not {instant} {wanted}.",
                remedy="Materialize again; if it fails again, look at the online store's file and its disk.",
            )
    return entities


def _expected(view: FeatureView, stored: StoredView, end: datetime) -> tuple[int, Any]:
    source = file_source(view)
    mapped = {new: old for old, new in (source.field_mapping or {}).items()}
    keys = [join for join, _, _ in stored.keys]
    select = ", ".join(
        f"{sql_name(mapped.get(name, name))} AS {sql_name(name)}" for name in [*keys, *(n for n, _ in stored.features)]
    )
    order = ", ".join(
        f"{sql_name(name)} DESC" for name in (source.timestamp_field, source.created_timestamp_column) if name
    )
    partition = ", ".join(sql_name(mapped.get(name, name)) for name in keys)
    with _duckdb() as connection:
        query = f"""
            SELECT {select}, {sql_name(source.timestamp_field)}::TIMESTAMPTZ AS rayplane_at
            FROM read_parquet($path) WHERE {sql_name(source.timestamp_field)}::TIMESTAMPTZ <= to_timestamp($end)
            QUALIFY row_number() OVER (PARTITION BY {partition} ORDER BY {order}) = 1
        """
        connection.execute(f"CREATE TABLE newest AS {query}", {"path": source_of(view), "end": end.timestamp()})
        [(entities,)] = connection.execute("SELECT count(*) FROM newest").fetchall()
        sample = connection.sql(
            f"SELECT * FROM newest ORDER BY hash({', '.join(map(sql_name, keys))}) LIMIT {SAMPLE}"
        ).to_arrow_table()
    return int(entities), sample


def _duckdb() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")  # else DuckDB takes a timestamp without zone as of this host's zone
    return connection


def _same(left: Any, right: Any) -> bool:
    missing = [value is None or (isinstance(value, float) and math.isnan(value)) for value in (left, right)]
    return all(missing) if any(missing) else bool(left == right)
