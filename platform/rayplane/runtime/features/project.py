"""The team's Feast store: feature_store.yaml filled from the run context, one FeatureStore per team and process."""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from feast import FeatureStore

from rayplane.errors import Unavailable
from rayplane.nouns.job import FeastAccess
from rayplane.runtime import context
from rayplane.runtime.features.asof import AsofOfflineStore

_lock = threading.Lock()
_stores: dict[tuple[str, str, str], FeatureStore] = {}


def store() -> FeatureStore:
    """Feast's store of the context's team, made once per process. Raises Unavailable if the platform has no Feast."""
    access = context.current().feast
    if access is None:
        raise Unavailable(
            "The platform told this job of no Feast registry.", remedy="Set RAYPLANE_FEAST_REGISTRY_URL at the gateway."
        )
    key = (access.project, access.registry_url, access.online_path)
    with _lock:
        if key not in _stores:
            _stores[key] = _open(access)
        return _stores[key]


def configuration(access: FeastAccess) -> dict[str, Any]:
    """The content of feature_store.yaml for a team's project and stores. Pure."""
    registry: dict[str, Any] = {"registry_type": "sql", "path": access.registry_url, "cache_ttl_seconds": 60}
    if access.registry_url.startswith("sqlite"):
        # Projects of several teams write one SQLite registry: wait for each other's locks.
        registry["sqlalchemy_config_kwargs"] = {"connect_args": {"timeout": 60}}
    return {
        "project": access.project,
        "provider": "local",
        "registry": registry,
        "offline_store": {"type": f"{AsofOfflineStore.__module__}.{AsofOfflineStore.__name__}"},
        "online_store": {"type": "sqlite", "path": access.online_path},
        "entity_key_serialization_version": 3,
        # Without this option Feast writes all rows of an entity's history, each overwriting the one before.
        "materialization": {"pull_latest_features": True},
    }


def _open(access: FeastAccess) -> FeatureStore:
    folder = tempfile.mkdtemp(prefix="rayplane-feast-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (Path(folder) / "feature_store.yaml").write_text(yaml.safe_dump(configuration(access), sort_keys=False))
    _prepare_online(Path(access.online_path))
    if access.registry_url.startswith("sqlite:///"):
        Path(access.registry_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FeatureStore(repo_path=folder)


def _prepare_online(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # WAL mode, which the file itself records, lets replicas read while a materialization writes.
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
