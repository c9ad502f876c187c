"""suspend, resume, extend and usage over HTTP: 202 with an operation, problems with a remedy, idempotency keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.cluster import Lease

CLUSTER = "/v1/teams/growth/clusters/dev"


def reconcile(platform: Platform, phase: str) -> None:
    """Write the status that the reconciler would write in this phase."""
    cluster = platform.store.get("Cluster", "growth", "dev")
    status = cluster.status_copy()
    status.phase, status.observed_generation = phase, cluster.metadata.generation
    platform.store.set_status(cluster.metadata.uid, status)


def test_suspend_and_resume_answer_with_an_operation_that_ends(growth: TestClient, platform: Platform) -> None:
    for verb, phase, suspended in (("suspend", "Suspended", True), ("resume", "Ready", False)):
        answer = growth.post(f"{CLUSTER}/{verb}")
        assert answer.status_code == 202
        assert answer.json()["spec"]["suspended"] is suspended
        assert answer.headers["ETag"]
        operation = answer.headers["Location"]
        assert growth.get(operation).json() | {"action": verb, "state": "running"} == growth.get(operation).json()
        reconcile(platform, phase)
        assert growth.get(operation).json()["state"] == "succeeded"


def test_extend_takes_a_duration_and_explains_a_wrong_one(growth: TestClient, platform: Platform) -> None:
    nothing = growth.post(f"{CLUSTER}/extend", json={"duration": "2h"})
    assert (nothing.status_code, nothing.json()["detail"].count("nothing to extend")) == (403, 1)
    growth.put(CLUSTER, json={"spec": {"idle_timeout": "30m"}})
    before = datetime.now(UTC)
    answer = growth.post(f"{CLUSTER}/extend", json={"duration": "2h"})
    assert answer.status_code == 202
    kept_until = datetime.fromisoformat(answer.json()["status"]["kept_until"])
    assert before + timedelta(hours=2) <= kept_until <= datetime.now(UTC) + timedelta(hours=2)
    for body in ({"duration": "soon"}, {}, {"duration": "2h", "more": 1}):
        assert growth.post(f"{CLUSTER}/extend", json=body).status_code == 422, body
    assert growth.post(f"{CLUSTER}/extend", json={"duration": 0}).status_code == 422
    too_much = growth.post(f"{CLUSTER}/extend", json={"duration": "30d"})
    assert too_much.status_code == 403
    assert "Ask for 1d or less" in too_much.json()["remedy"]


def test_a_request_repeated_with_its_idempotency_key_is_done_once(growth: TestClient, platform: Platform) -> None:
    headers = {"Idempotency-Key": "one"}
    first = growth.post(f"{CLUSTER}/suspend", headers=headers)
    growth.post(f"{CLUSTER}/resume")
    again = growth.post(f"{CLUSTER}/suspend", headers=headers)
    assert (again.json(), again.headers["X-Replayed"]) == (first.json(), "true")
    assert platform.store.get("Cluster", "growth", "dev").spec_data["suspended"] is False


@pytest.mark.parametrize("verb", ["suspend", "resume", "extend"])
def test_a_missing_cluster_is_404_with_the_nearest_name(growth: TestClient, verb: str) -> None:
    answer = growth.post(f"/v1/teams/growth/clusters/def/{verb}", json={"duration": "1h"})
    assert answer.status_code == 404
    assert "Did you mean 'dev'?" in answer.json()["remedy"]


def test_usage_is_listed_by_cluster_between_two_instants(growth: TestClient, platform: Platform) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for hour, uid in ((0, "a"), (4, "b")):
        start = began + timedelta(hours=hour)
        platform.store.open_lease(
            Lease(
                id=uid, team="growth", cluster_uid=uid, cluster="dev", cpu=2, memory=2**30, gpu=0,
                started_at=start, ended_at=start + timedelta(hours=2),
            )
        )  # fmt: skip
    items = growth.get("/v1/teams/growth/usage").json()["items"]
    assert [(item["cluster_uid"], item["core_seconds"], item["open"]) for item in items] == [
        ("a", 14400, 0),
        ("b", 14400, 0),
    ]
    part = growth.get("/v1/teams/growth/usage", params={"since": "2026-01-01T05:00:00Z"}).json()["items"]
    assert [(item["cluster_uid"], item["gib_seconds"]) for item in part] == [("b", 3600)]
    assert growth.get("/v1/teams/growth/usage", params={"since": "2026-01-01T05:00:00"}).status_code == 422
