"""Extreme values in each field of each spec and event: the response is below 500, and lists still work."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rayplane.gateway.api.app import create_app
from rayplane.gateway.store import Store
from rayplane.gateway.usecases.events import _RECORDS
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import NOUNS
from tests.unit.gateway.api.served import platform_without_compute

JSON = {"Content-Type": "application/json"}
NODES = {"size": "small", "workers": {"min": 0, "max": 1}, "backend": "local"}
STEP = {
    "entrypoint": "true", "needs": [], "inputs": [], "outputs": ["d"], "sources": {"a": "b"}, "parameters": {"a": "b"},
    "env": {"A": "b"}, "files": ["*"], "retries": 0, "timeout": "1h", "cache": True, "tracked": False,
}  # fmt: skip
SPECS: dict[str, dict[str, Any]] = {
    "Team": {
        "backend": "local", "members": {"ada": "viewer"}, "idle_timeout": "1h", "delete_after_idle": "1h",
        "quota": {"cpu": 1, "memory": 1, "gpu": 1, "clusters": 1}, "max_lifetime": "1d", "max_extension": "1h",
        "sizes": {"small": {"cpu": 1, "memory": 1, "gpu": 0, "logical_cpu": 1}},
    },
    "Cluster": {
        **NODES, "address": "http://127.0.0.1:9", "idle_timeout": "1h", "delete_after_idle": "1h",
        "max_lifetime": "1d", "suspended": False,
    },
    "Job": {
        "entrypoint": "true", "cluster": "dev", "nodes": None, "package": None, "env": {"A": "b"}, "pip": ["a"],
        "parameters": {"a": "b"}, "resources": {"cpu": 1, "memory": 1, "gpu": 0}, "retries": 1, "timeout": "1h",
        "tracked": True, "experiment": "e", "inputs": {"a": "b"}, "sources": {"a": "b"}, "values": {"a": 1},
        "pipeline": "a/b/c", "submission_id": "s", "metadata": {"a": "b"}, "stop_requested": False,
    },
    "Pipeline": {
        "cluster": "dev", "package": None, "parameters": {"a": "b"}, "experiment": "e", "steps": {"one": STEP},
    },
    "Dataset": {"description": "x", "retention": "1d"},
    "Feature": {"repository": "features", "freshness": "1d"},
    "Model": {"description": "x", "gate": {"metrics": {"auc": {"min": 0.5, "max": 1}}}},
    "Service": {
        "model": "models:/m/1", "cluster": "dev", "nodes": None, "app": "a:b", "package": None, "feature_service": "f",
        "replicas": {"min": 1, "max": 2}, "max_ongoing_requests": 10, "startup_timeout": "1m",
    },
}  # fmt: skip
AT = "2026-01-01T00:00:00Z"
EVENTS: dict[str, dict[str, Any]] = {
    "dataset.published": {
        "team": "growth", "name": "d", "version": "1" * 16, "content_hash": "1" * 64, "rows": 1, "bytes": 1,
        "columns": [{"name": "a", "type": "int64"}], "statistics": {"a": {"min": 1}}, "created_at": AT,
        "inputs": [{"name": "a", "version": "b"}],
    },
    "output.recorded": {"name": "a", "value": 1},
    "run.started": {"run_id": "r", "attempt": 1},
    "run.finished": {"run_id": "r", "status": "x"},
    "features.materialized": {
        "views": [{"view": "v", "dataset": "d", "version": "1"}], "start": AT, "end": AT, "rows": {"v": 1},
        "created_at": AT,
    },
    "model.registered": {"name": "m", "version": "1", "run_id": "r", "aliases": ["a"]},
    "gate.judged": {
        "run_id": "r", "passed": True, "figures": {"a": 1}, "created_at": AT,
        "checks": [{"metric": "auc", "value": 1, "bound": ">1", "passed": True}],
    },
    "source.observed": {"name": "a", "uri": "u", "content_hash": "h", "rows": 1},
    "lineage": {"source": "a", "target": "b"},
}  # fmt: skip
ODD = [
    None, 10**400, float("nan"), "", "a\0b", "\ud800", "9" * 5000, "0001-01-01T00:00:00+23:59", [[]],
    {"\ud800": "\ud800"}, json.loads("[" * 200 + "]" * 200),
]  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each value within a value."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield (*above, key)
        yield from places(part, (*above, key))


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    made = inner = copy.deepcopy(value)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return made


@pytest.fixture(params=["sqlite", "postgres"])
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Platform]:
    """A platform without compute, on each of the databases: each has other values that it can't store."""
    with platform_without_compute(tmp_path) as made:
        if request.param == "sqlite":
            yield made
            return
        store = Store(request.getfixturevalue("postgres_database"))
        store.migrate()
        yield replace(made, store=store)
        store.close()


@pytest.fixture
def growth(platform: Platform, token: str) -> TestClient:
    """A client, with team ``growth`` and its cluster ``dev``; unhandled exceptions become a 500, as in the gateway."""
    headers = {"Authorization": f"Bearer {token}", **JSON}
    client = TestClient(create_app(platform), headers=headers, raise_server_exceptions=False)
    assert client.put("/v1/teams/growth", json={"spec": {}}).is_success
    assert client.put("/v1/teams/growth/clusters/dev", json={"spec": {}}).is_success
    return client


def test_the_specs_and_events_of_this_test_have_all_fields() -> None:
    assert {noun.kind: set(noun.spec.model_fields) - {"size", "workers", "backend"} for noun in NOUNS} == {
        kind: set(spec) - {"size", "workers", "backend"} for kind, spec in SPECS.items()
    }
    assert {kind: set(record.model_fields) - {"schema_version", "uri", "job"} for kind, record in _RECORDS.items()} == {
        kind: set(data) - {"uri"} for kind, data in EVENTS.items()
    }


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.singular)
def test_a_spec_with_an_odd_value_anywhere_is_answered(growth: TestClient, noun: Any) -> None:
    spec, number = SPECS[noun.kind], 0
    base = f"/v1/teams/growth/{noun.plural}" if noun.team_scoped else "/v1/teams"
    for place in places(spec):
        for odd in ODD:
            number += 1
            body = json.dumps({"spec": changed(spec, place, odd)})
            answer = growth.put(f"{base}/odd-{number}", content=body)
            assert answer.status_code < 500, (place, odd, answer.text)
            answer.content.decode()
    for path in (f"{base}?limit=1000", "/growth/dev/api/jobs/", "/metrics"):
        answer = growth.get(path)
        assert answer.status_code == 200, answer.text
        answer.content.decode()


@pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.singular)
def test_a_plan_with_an_odd_value_anywhere_is_answered(growth: TestClient, noun: Any) -> None:
    for place in places(SPECS[noun.kind]):
        for odd in ODD:
            document = {"kind": noun.kind, "metadata": {"name": "odd"}, "spec": changed(SPECS[noun.kind], place, odd)}
            answer = growth.post("/v1/plan", content=json.dumps({"documents": [document], "team": "growth"}))
            assert answer.status_code < 500, (place, odd, answer.text)
            answer.content.decode()


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_with_an_odd_value_anywhere_is_answered(growth: TestClient, platform: Platform, kind: str) -> None:
    uid = growth.get("/v1/teams/growth/clusters/dev").json()["metadata"]["uid"]
    worker = {"Authorization": f"Bearer {platform.signer.cluster_token('growth', uid)}"}
    job = growth.post("/v1/teams/growth/jobs", json={"spec": {"entrypoint": "true", "cluster": "dev"}}).json()
    uri = {"uri": platform.storage.uri(f"growth/datasets/d/{'1' * 16}")} if kind == "dataset.published" else {}
    attempt = f"{job['metadata']['uid']}-1"
    event = {"id": "e", "type": kind, "time": AT, "submission_id": attempt, "data": {**EVENTS[kind], **uri}}
    number = 0
    for place in places(event):
        for odd in ODD:
            number += 1
            body = json.dumps({"events": [changed({**event, "id": f"e{number}"}, place, odd)]})
            answer = growth.post("/v1/events", content=body, headers=worker)
            assert answer.status_code < 500, (place, odd, answer.text)
            answer.content.decode()
    for path in ("jobs", "datasets", "models", "features", "datasets/d/versions", "audit"):
        answer = growth.get(f"/v1/teams/growth/{path}")
        assert answer.status_code == 200 or path.endswith("versions"), answer.text
