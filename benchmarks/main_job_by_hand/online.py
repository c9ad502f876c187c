"""Online features in Feast, and the service in Ray Serve that reads them. SQLite stores registry and values.

Unlike the platform's online read, Feast's own, which this uses, ignores the age of a value.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import httpx
import pyarrow as pa
import yaml
from ray import serve
from starlette.requests import Request

from jobs import flights_data
from jobs.register import ALIAS, MODEL

if TYPE_CHECKING:
    from feast import FeatureStore

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")


def open_store(folder: Path) -> FeatureStore:
    """Open the Feast store of a folder; writes its configuration if there is none."""
    from feast import FeatureStore

    settings = folder / "feature_store.yaml"
    if not settings.exists():
        configuration = {
            "project": "flights",
            "provider": "local",
            "registry": {"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"},
            "offline_store": {"type": "duckdb"},
            "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
            "entity_key_serialization_version": 3,
            # Without this option Feast writes all rows of an entity's history, each overwriting the one before.
            "materialization": {"pull_latest_features": True},
        }
        settings.write_text(yaml.safe_dump(configuration))
    return FeatureStore(repo_path=str(folder))


def materialize(store: FeatureStore, end: str) -> None:
    """Write each entity's newest values at or before an instant."""
    store.materialize(start_date=EPOCH, end_date=datetime.fromisoformat(end))


def deploy(folder: Path) -> str:
    """Serve the champion; returns its URL once it is ready."""
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment: Any = Model  # the decorator made the class a deployment
    serve.run(deployment.bind(str(folder)), name=MODEL)
    return f"http://127.0.0.1:{port}/"


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, request: dict[str, Any]) -> Any:
    """The service's answer to one flight."""
    answer = httpx.post(url, json={"instances": [request]}, timeout=60, trust_env=False)
    answer.raise_for_status()
    return answer.json()


@serve.deployment(name="model", ray_actor_options={"num_cpus": 1})
class Model:
    """The champion, and the Feast store that it reads features from."""

    def __init__(self, folder: str) -> None:
        import mlflow.xgboost

        self._booster = mlflow.xgboost.load_model(f"models:/{MODEL}@{ALIAS}")
        self._store = open_store(Path(folder))
        self._service = self._store.get_feature_service(flights_data.FEATURE_SERVICE)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one probability for each flight of the request."""
        rows = [derived(row) for row in (await request.json())["instances"]]
        features = self._store.get_online_features(features=self._service, entity_rows=rows).to_dict()
        columns = {**{name: [row[name] for row in rows] for name in rows[0]}, **features}
        table = pa.table({name: columns[name] for name in flights_data.FEATURES})
        scores = self._booster.inplace_predict(flights_data.to_matrix(table), validate_features=False)
        return {"predictions": scores.tolist()}


def derived(row: dict[str, Any]) -> dict[str, Any]:
    """A flight with the features that its schedule determines, as jobs.prepare computes them."""
    local = datetime.fromisoformat(row["scheduled_at"]).astimezone(NEW_YORK)
    return {
        **{name: row[name] for name in ("origin", "carrier", "tailnum", "distance")},
        "route": f"{row['origin']}-{row['dest']}",
        "scheduled_minute": local.hour * 60 + local.minute,
        "weekday": local.isoweekday(),
        "day_of_year": local.timetuple().tm_yday,
    }
