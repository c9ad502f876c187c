"""Make prepared tables, feature tables and a Feast store with the jobs' pure functions, without Ray and platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import delay_features, plane_features, prepare, weather_features


def prepared(raw: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    airports = raw["airports"]
    return {
        "flights": prepare.prepare_flights(raw["flights"], airports).good,
        "weather": prepare.prepare_weather(raw["weather"], airports).good,
        "planes": prepare.prepare_planes(raw["planes"], airports).good,
    }


def features(tables: Mapping[str, pa.Table], **delay_options: Any) -> dict[str, pa.Table]:
    """View -> its feature table."""
    delays = {
        f"{entity}_delays": delay_features.delay_features(tables["flights"], entity, **delay_options)
        for entity in delay_features.KEYS
    }
    return {
        "origin_weather": weather_features.weather_features(tables["weather"]),
        **delays,
        "plane": plane_features.plane_features(tables["planes"]),
    }


def shuffled(table: pa.Table, seed: int = 7) -> pa.Table:
    return table.take(np.random.default_rng(seed).permutation(table.num_rows))


def feast_store(folder: Path, views: Mapping[str, pa.Table]) -> Any:
    """Make a separate FeatureStore over ``views``, with the definitions applied."""
    from feast import FeatureStore, RepoConfig

    from features import definitions

    for view, table in views.items():
        pq.write_table(table, folder / f"{definitions.SOURCES[view]}.parquet")
    config = RepoConfig(
        project="flights",
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"},
        offline_store={"type": "rayplane.runtime.features.asof.AsofOfflineStore"},  # as runtime/features/project.py
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    store.apply(definitions.build(lambda dataset: str(folder / f"{dataset}.parquet")))
    return store


def feast_join(store: Any) -> Callable[[pa.Table], pa.Table]:
    from features import definitions

    service = store.get_feature_service(definitions.FEATURE_SERVICE)
    return lambda rows: store.get_historical_features(entity_df=rows.to_pandas(), features=service).to_arrow()
