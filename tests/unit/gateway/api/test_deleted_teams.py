"""A team that is deleted and created again, over the API: no route reaches anything of the old one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rayplane.gateway.api.app import create_app
from rayplane.gateway.reconcile.team import TeamReconciler
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import Lease
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Edge
from rayplane.storage import layout
from tests.support import team_routes

MARK = "before-the-deletion"
CODE = "c" * 64


def populate(api: TestClient, platform: Platform, package: tuple[str, bytes]) -> dict[str, Sequence[str]]:
    """Create something of every kind in team ``growth``; return the old names, by route parameter."""
    sha256, content = package
    labelled = {"metadata": {"labels": {"era": MARK}}}
    step = {"one": {"entrypoint": "true"}}
    assert api.put("/v1/teams/growth", json={"spec": {}, **labelled}).is_success
    for plural, name, spec in (
        ("clusters", "dev", {}),
        ("clusters", "old-cluster", {}),
        ("datasets", "old-data", {}),
        ("features", "old-features", {}),
        ("models", "old-model", {}),
        ("pipelines", "old-pipeline", {"cluster": "dev", "steps": step}),
        ("services", "old-service", {"cluster": "dev", "model": "models:/old-model/1"}),
    ):
        answer = api.put(f"/v1/teams/growth/{plural}/{name}", json={"spec": spec, **labelled})
        assert answer.is_success, answer.text
    assert api.put(f"/v1/teams/growth/packages/{sha256}", content=content).is_success
    assert api.put("/growth/dev/api/packages/gcs/old_pkg.zip", content=content).is_success
    submission = {"entrypoint": f"echo {MARK}", "cluster": "dev", "submission_id": "old-raysubmit", "tracked": False}
    job = api.post("/v1/teams/growth/jobs", json={"metadata": {"name": "old-job"}, "spec": submission}).json()
    run = api.post("/v1/teams/growth/pipelines/old-pipeline/runs", json={}).json()["metadata"]["name"]
    uid = job["metadata"]["uid"]
    platform.storage.append(layout.job_log("growth", uid), f"{MARK}\n".encode())
    version = {"team": "growth", "name": "old-data", "version": "old-version", "content_hash": CODE, "uri": MARK}
    platform.store.put_dataset_version(DatasetVersion.model_validate({**version, "rows": 1, "bytes": 1, "columns": []}))
    platform.store.add_edges("growth", [Edge(source=f"source:{MARK}#1", target="dataset:old-data@old-version")])
    lease = Lease(id="l", team="growth", cluster_uid="old-c", cluster=MARK, cpu=1, memory=1, gpu=0, started_at=utcnow())
    platform.store.open_lease(lease)
    platform.store.close_lease("l", utcnow())
    operation = api.put("/v1/teams/growth/clusters/dev", json={"spec": {"idle_timeout": 60}}).headers["Location"]
    return {
        "name": ["old-cluster", "old-data", "old-features", "old-model", "old-pipeline", "old-service", "old-job", uid],
        "run": [run],
        "version": ["old-version"],
        "sha256": [sha256],
        "id": [operation.rpartition("/")[2]],
        "protocol": ["gcs"],
        "package_name": ["old_pkg.zip"],
        "cluster": ["dev"],
        "job_or_submission_id": ["old-raysubmit", "old-job", uid],
    }


def delete(api: TestClient, platform: Platform, data: str | None) -> dict[str, Any]:
    store = platform.store
    for kind in ("Cluster", "Service", "PipelineRun", "Job"):  # as their reconcilers would
        for obj in store.each(kind, "growth"):
            if kind in ("Cluster", "Service"):
                store.remove(obj.metadata.uid)
            else:
                store.set_status(obj.metadata.uid, {**obj.status_data, "phase": "Stopped"})
    answer = api.delete("/v1/teams/growth", params={"data": data} if data else {})
    assert answer.status_code == 202, answer.text
    deleted: dict[str, Any] = answer.json()
    assert TeamReconciler(platform, None, platform.readers).reconcile(store.get("Team", "", "growth")) is None  # type: ignore[arg-type]
    return deleted


QUERIES = {"node": ["dataset:old-data@old-version", f"source:{MARK}#1"]}


@pytest.mark.parametrize("data", [None, "archive", "purge"])
def test_no_route_of_a_new_team_reaches_anything_of_the_old_one(
    api: TestClient, platform: Platform, zipped: tuple[str, bytes], data: str | None
) -> None:
    known = populate(api, platform, zipped)
    named = [value for key, values in known.items() if key not in ("cluster", "protocol") for value in values]
    old = [MARK, *dict.fromkeys(named)]
    before = list(team_routes.walk(api, "growth", known, QUERIES))
    assert {a.route for a in before} == {a.route for a in before if a.status == 200}, "the names are right"
    assert len(team_routes.leaks(iter(before), old)) > 25, "the walk finds the old objects while they exist"
    gone = delete(api, platform, data)
    archived = f"growth~{gone['metadata']['uid']}"
    assert (gone["status"]["data"], gone["status"]["archived_as"]) == (data or "archive", archived)
    for asked in (api.get("/v1/teams/growth"), api.get("/v1/teams/growth/jobs")):
        assert asked.status_code == 404

    assert api.put("/v1/teams/growth", json={"spec": {}}).status_code == 202
    assert api.put("/v1/teams/growth/clusters/dev", json={"spec": {}}).status_code == 202
    uid = platform.store.get("Cluster", "growth", "dev").metadata.uid
    token = platform.signer.cluster_token("growth", uid)
    theirs = TestClient(create_app(platform), headers={"Authorization": f"Bearer {token}"})
    assert team_routes.leaks(team_routes.walk(theirs, "growth", known, QUERIES), old) == []
    # An admin of the platform may read an old operation by its id: it belongs to the archived team.
    of_admin = [a for a in team_routes.walk(api, "growth", known, QUERIES) if a.route != "/v1/operations/{id}"]
    assert team_routes.leaks(iter(of_admin), old) == []
    job = api.post(
        "/v1/teams/growth/jobs",
        json={"metadata": {"name": "old-job"}, "spec": {"entrypoint": "true", "cluster": "dev", "tracked": False}},
    )
    assert job.is_success, job.text
    assert api.get("/v1/teams/growth/jobs/old-job/logs").text == ""
    assert api.post("/v1/teams/growth/pipelines/old-pipeline/runs", json={}).status_code == 404


@pytest.mark.parametrize("data", ["archive", "purge"])
def test_an_admin_of_the_platform_reads_the_audit_log_leases_and_usage_of_an_archived_name(
    api: TestClient, platform: Platform, zipped: tuple[str, bytes], data: str
) -> None:
    populate(api, platform, zipped)
    archived = delete(api, platform, data)["status"]["archived_as"]
    assert api.put("/v1/teams/growth", json={"spec": {}}).status_code == 202
    newest = api.get(f"/v1/teams/{archived}/audit").json()["items"][0]
    assert (newest["action"], newest["team"]) == (data, archived)
    assert [lease["id"] for lease in api.get(f"/v1/teams/{archived}/leases").json()["items"]] == ["l"]
    assert [entry["cluster"] for entry in api.get(f"/v1/teams/{archived}/usage").json()["items"]] == [MARK]
    for path in ("", "/jobs", "/datasets/old-data/versions", "/packages/" + zipped[0]):
        assert api.request("HEAD" if "packages" in path else "GET", f"/v1/teams/{archived}{path}").status_code == 404
    assert api.put(f"/v1/teams/{archived}", json={"spec": {}}).status_code == 422
    dev = platform.store.put("Cluster", "growth", "dev", {}, owner="ada")[0]
    theirs = {"Authorization": f"Bearer {platform.signer.cluster_token('growth', dev.metadata.uid)}"}
    for path in ("audit", "leases", "usage", "lineage?node=x"):
        assert api.get(f"/v1/teams/{archived}/{path}", headers=theirs).status_code == 403


def test_an_unknown_value_of_data_is_refused_and_deletes_nothing(api: TestClient) -> None:
    assert api.put("/v1/teams/growth", json={"spec": {}}).is_success
    assert api.delete("/v1/teams/growth", params={"data": "shred"}).status_code == 422
    assert api.get("/v1/teams/growth").json()["metadata"]["deleted_at"] is None


def test_a_team_that_is_being_archived_is_not_purged_by_a_second_request(api: TestClient) -> None:
    assert api.put("/v1/teams/growth", json={"spec": {}}).is_success
    assert api.delete("/v1/teams/growth").status_code == 202
    assert api.delete("/v1/teams/growth").status_code == 202
    refused = api.delete("/v1/teams/growth", params={"data": "purge"})
    assert refused.status_code == 409
    assert "data: archive" in refused.json()["detail"]


def test_a_stored_response_about_the_old_team_is_not_repeated_for_the_new_one(
    api: TestClient, platform: Platform
) -> None:
    key = {"Idempotency-Key": "one"}
    body = {"spec": {"quota": {"cpu": 7}}}
    first = api.put("/v1/teams/growth", json=body, headers=key)
    uid = first.json()["metadata"]["uid"]
    assert api.put("/v1/teams/growth", json=body, headers=key).headers["X-Replayed"] == "true"
    delete(api, platform, None)
    assert api.put("/v1/teams/growth", json={"spec": {}}).status_code == 202
    again = api.put("/v1/teams/growth", json=body, headers=key)
    assert "X-Replayed" not in again.headers
    assert again.json()["metadata"]["uid"] != uid
    assert again.json()["spec"]["quota"]["cpu"] == 7


def test_a_stored_response_to_a_deletion_is_repeated_once_the_team_is_gone(api: TestClient, platform: Platform) -> None:
    assert api.put("/v1/teams/growth", json={"spec": {}}).is_success
    key, query = {"Idempotency-Key": "gone"}, {"data": "purge"}
    first = api.delete("/v1/teams/growth", params=query, headers=key)
    TeamReconciler(platform, None, platform.readers).reconcile(platform.store.get("Team", "", "growth"))  # type: ignore[arg-type]
    again = api.delete("/v1/teams/growth", params=query, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
