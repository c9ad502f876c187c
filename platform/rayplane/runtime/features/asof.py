"""A Feast offline store that joins point-in-time with DuckDB's ASOF join, and else is Feast's DuckDB store.

Feast 0.67 joins an entity row with every feature row inside the TTL and keeps the newest: this takes 19 s for the
336,776 flights, and runs out of memory for event histories of few keys and long TTLs. An ASOF join sorts the features
once, finds only the newest row for each entity row, and keeps the entity rows' order.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import duckdb
import ibis
import pandas as pd
import pyarrow as pa
from feast import FeatureView, FileSource, OnDemandFeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig, _write_data_source
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from rayplane.text import sql_name

_ROW = "rayplane_asof_row"
_AT = "rayplane_asof_at"
_UTC = pa.timestamp("us", tz="UTC")


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Configuration of the store: as of Feast's DuckDB store."""

    type: str = "rayplane.runtime.features.asof.AsofOfflineStore"


class AsofOfflineStore(DuckDBOfflineStore):
    """The offline store. Feast finds this class by its path in feature_store.yaml."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Join each entity row, once and in order, with the newest values at or before its instant and within the TTL.

        Entity rows as SQL, a filter by creation and sources that are not local Parquet go to Feast's own join.
        """
        if (
            not isinstance(entity_df, pd.DataFrame)
            or filter_by_created_timestamp
            or not all(map(_is_parquet, feature_views))
        ):
            stock: Any = DuckDBOfflineStore  # Feast's annotations are narrower than its own calls
            job: RetrievalJob = stock.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
            )
            return job
        stamp = offline_utils.infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        entities = pa.Table.from_pandas(entity_df, preserve_index=False)
        instants = entities[stamp].cast(_UTC)
        views = [_View(view, feature_refs, full_feature_names) for view in feature_views]
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in entities.column_names if name != stamp],
            min_event_timestamp=entity_df[stamp].min(),
            max_event_timestamp=entity_df[stamp].max(),
        )
        return _AsofJob(
            lambda: _join(entities, instants, views), on_demand, full_feature_names, metadata, str(config.repo_path)
        )


class _View:
    """The columns to read from one feature view, and their names in the answer."""

    def __init__(self, view: FeatureView, refs: list[str], full_names: bool) -> None:
        source: Any = view.batch_source
        stored = {new: old for old, new in (source.field_mapping or {}).items()}
        projection: Any = view.projection  # Feast has no type for it
        prefix = f"{projection.name_to_use()}:"
        features = [ref.removeprefix(prefix) for ref in refs if ref.startswith(prefix)]
        base = projection.name_alias or view.name
        self.path = str(source.path).removeprefix("file://")
        self.stamp: str = source.timestamp_field
        self.created: str = source.created_timestamp_column or ""
        self.ttl: timedelta | None = view.ttl or None
        renamed: dict[str, str] = projection.join_key_map or {}
        self.keys = [(stored.get(c.name, c.name), renamed.get(c.name, c.name)) for c in view.entity_columns]
        """Column of the source, column of the entity rows."""
        self.features = [(stored.get(f, f), f"{base}__{f}" if full_names else f) for f in features]
        """Column of the source, column of the answer."""


def _is_parquet(view: FeatureView) -> bool:
    source = view.batch_source
    return isinstance(source, FileSource) and str(source.path).endswith(".parquet") and "s3://" not in str(source.path)


def _join(entities: pa.Table, instants: pa.ChunkedArray[Any], views: list[_View]) -> pa.Table:
    rows = entities.append_column(_AT, instants).append_column(_ROW, pa.array(range(entities.num_rows), pa.int64()))
    joined = entities
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("entities", rows)
        for view in views:
            # One view at a time: DuckDB holds one sorted history, and appending the columns copies nothing.
            values = connection.sql(_query(view), params={"path": view.path}).to_arrow_table()
            for _, name in view.features:
                joined = joined.append_column(name, values[name])
    return joined


def _query(view: _View) -> str:
    holds = "true" if view.ttl is None else f"f.{_AT} + INTERVAL {_microseconds(view.ttl)} MICROSECONDS >= e.{_AT}"
    values = ", ".join(
        f"CASE WHEN {holds} THEN f.{sql_name(stored)} END AS {sql_name(name)}" for stored, name in view.features
    )
    columns = dict.fromkeys([*(stored for stored, _ in view.keys), *(stored for stored, _ in view.features)])
    names = ", ".join(map(sql_name, columns))
    wanted = ", ".join(dict.fromkeys(sql_name(column) for _, column in view.keys))
    equal = " AND ".join(f"e.{sql_name(column)} = f.{sql_name(stored)}" for stored, column in view.keys)
    partition = ", ".join([*(sql_name(stored) for stored, _ in view.keys), sql_name(view.stamp)])
    last = (
        f"QUALIFY row_number() OVER (PARTITION BY {partition} ORDER BY {sql_name(view.created)} DESC) = 1"
        if view.created
        else ""
    )
    return f"""
        WITH f AS (SELECT {names}, {sql_name(view.stamp)}::TIMESTAMPTZ AS {_AT} FROM read_parquet($path) {last}),
             e AS (SELECT {wanted + "," if wanted else ""} {_AT}, {_ROW} FROM entities)
        SELECT {values} FROM e ASOF LEFT JOIN f ON {equal + " AND" if equal else ""} e.{_AT} >= f.{_AT}
        ORDER BY e.{_ROW}
    """


def _microseconds(ttl: timedelta) -> int:
    return ttl // timedelta(microseconds=1)


class _AsofJob(RetrievalJob):
    """A retrieval job that runs the join when Feast asks for its rows."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        on_demand: list[OnDemandFeatureView],
        full_names: bool,
        metadata: RetrievalMetadata,
        repo_path: str,
    ) -> None:
        super().__init__()
        self._run = run
        self._on_demand = on_demand
        self._full_names = full_names
        self._metadata = metadata
        self._repo_path = repo_path

    @property
    def full_feature_names(self) -> bool:
        return self._full_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> Any:
        table = ibis.memtable(self._run())
        return _write_data_source(table, storage.to_data_source(), self._repo_path, "overwrite", allow_overwrite)
