"""The HTTP API on a real store: verbs, problems, preconditions, tokens, schema."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rayplane.gateway.api import waiting
from rayplane.gateway.store.changes import log_of
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import NOUNS
from rayplane.nouns.cluster import ClusterStatus, Endpoint
from rayplane.nouns.dataset import Column, DatasetVersion
from rayplane.nouns.events import Edge
from rayplane.nouns.job import JobStatus

CLUSTER = "/v1/teams/growth/clusters/dev"
JSON = {"Content-Type": "application/json"}
JOB = {"entrypoint": "python -m jobs.train", "cluster": "dev"}


def test_only_the_probes_answer_without_a_token(anonymous: TestClient) -> None:
    assert anonymous.get("/healthz").status_code == 200
    assert anonymous.get("/readyz").status_code == 200
    for path in (
        "/metrics",
        "/sd/prometheus",
        "/v1/info",
        "/v1/teams",
        "/openapi.json",
        "/nothing",
        "/growth/dev/api/version",
    ):
        answer = anonymous.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Authorization", "X-Ray-Authorization", "x-ray-authorization"])
def test_a_token_is_accepted_in_either_header(anonymous: TestClient, token: str, header: str) -> None:
    assert anonymous.get("/v1/teams", headers={header: f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Basic abc", "wrong"])
def test_a_header_without_a_bearer_token_is_no_token(anonymous: TestClient, value: str) -> None:
    answer = anonymous.get("/v1/teams", headers={"Authorization": value})
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:rayplane:problem:unauthenticated")


def test_a_wrong_token_is_answered_401_with_a_remedy(anonymous: TestClient) -> None:
    answer = anonymous.get("/v1/teams", headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "wrong or was revoked" in answer.json()["detail"]
    assert "rayplane up" in answer.json()["remedy"]


def test_a_clusters_token_reads_its_own_team_and_writes_nothing(
    anonymous: TestClient, platform: Platform, growth: TestClient
) -> None:
    growth.put("/v1/teams/sales", json={"spec": {}})
    uid = growth.get(CLUSTER).json()["metadata"]["uid"]
    headers = {"Authorization": f"Bearer {platform.signer.cluster_token('growth', uid)}"}
    assert anonymous.get(CLUSTER, headers=headers).status_code == 200
    assert anonymous.get("/v1/teams/sales/clusters", headers=headers).status_code == 403
    assert anonymous.put(CLUSTER, json={"spec": {}}, headers=headers).status_code == 403
    assert anonymous.get("/metrics", headers=headers).status_code == 403


def test_a_deleted_clusters_token_is_refused_everywhere(
    anonymous: TestClient, platform: Platform, growth: TestClient
) -> None:
    uid = growth.get(CLUSTER).json()["metadata"]["uid"]
    headers = {"Authorization": f"Bearer {platform.signer.cluster_token('growth', uid)}"}
    assert anonymous.get("/v1/teams/growth/jobs", headers=headers).status_code == 200
    platform.store.remove(uid)
    answer = anonymous.get("/v1/teams/growth/jobs", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:rayplane:problem:unauthenticated")
    for_ray = anonymous.get("/growth/dev/api/version", headers=headers)
    assert for_ray.status_code == 403
    assert for_ray.headers["Content-Type"].startswith("text/plain")
    assert "cluster is gone" in for_ray.text


def test_put_says_whether_it_created_changed_or_left_the_object(api: TestClient) -> None:
    first = api.put("/v1/teams/growth", json={"spec": {}})
    assert first.headers["X-Change"] == "created"
    assert first.status_code in (201, 202)
    again = api.put("/v1/teams/growth", json={"spec": {}})
    assert (again.status_code, again.headers["X-Change"]) == (200, "unchanged")
    assert again.headers["ETag"] == first.headers["ETag"]
    changed = api.put("/v1/teams/growth", json={"spec": {"quota": {"cpu": 64}}})
    assert changed.headers["X-Change"] == "changed"
    assert changed.headers["ETag"] != first.headers["ETag"]


def test_slow_work_answers_202_with_an_operation_that_ends(growth: TestClient, platform: Platform) -> None:
    answer = growth.put("/v1/teams/growth/clusters/next", json={"spec": {}})
    assert answer.status_code == 202
    operation = growth.get(answer.headers["Location"]).json()
    assert (operation["state"], operation["kind"], operation["name"]) == ("running", "Cluster", "next")
    uid = answer.json()["metadata"]["uid"]
    platform.store.set_status(uid, ClusterStatus(phase="Ready", observed_generation=1))
    assert growth.get(answer.headers["Location"]).json()["state"] == "succeeded"


def test_if_match_guards_a_write(growth: TestClient) -> None:
    etag = growth.get(CLUSTER).headers["ETag"]
    assert growth.put(CLUSTER, json={"spec": {"suspended": True}}, headers={"If-Match": etag}).is_success
    stale = growth.put(CLUSTER, json={"spec": {"size": "small"}}, headers={"If-Match": etag})
    assert (stale.status_code, stale.json()["type"]) == (412, "urn:rayplane:problem:precondition-failed")
    assert growth.put(CLUSTER, json={"spec": {"size": "small"}}, headers={"If-Match": "x"}).status_code == 422


def test_a_repeated_idempotency_key_gets_the_first_response(growth: TestClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = growth.post("/v1/teams/growth/jobs", json={"spec": JOB}, headers=headers)
    again = growth.post("/v1/teams/growth/jobs", json={"spec": JOB}, headers=headers)
    assert first.status_code == again.status_code == 202
    assert first.json()["metadata"]["name"] == again.json()["metadata"]["name"]
    assert again.headers["X-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert len(growth.get("/v1/teams/growth/jobs").json()["items"]) == 1
    other = growth.post("/v1/teams/growth/jobs", json={"spec": {**JOB, "retries": 2}}, headers=headers)
    assert other.status_code == 409


def test_concurrent_requests_with_the_same_key_create_one_job(growth: TestClient) -> None:
    def submit(_: int) -> str:
        answer = growth.post("/v1/teams/growth/jobs", json={"spec": JOB}, headers={"Idempotency-Key": "k2"})
        return str(answer.json()["metadata"]["name"])

    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(submit, range(16)))
    assert len(names) == 1
    assert len(growth.get("/v1/teams/growth/jobs").json()["items"]) == 1


def test_a_dry_run_writes_nothing(growth: TestClient) -> None:
    answer = growth.put("/v1/teams/growth/clusters/other?dry_run=true", json={"spec": {}})
    assert (answer.status_code, answer.headers["X-Change"]) == (200, "created")
    assert growth.get("/v1/teams/growth/clusters/other").status_code == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"spec": {"sise": "small"}}, "Did you mean 'size'?"),
        ({"spec": {"workers": {"maximum": 1}}}, "workers.maximum: unknown field"),
        ({"metadata": {"lables": {}}, "spec": {}}, "Did you mean 'labels'?"),
        ({"metadata": {"name": "other"}, "spec": {}}, "the URL says 'dev'"),
        ({"metadata": {"team": "other"}, "spec": {}}, "the URL says 'growth'"),
        ({"kind": "Job", "spec": {}}, "kind"),
        ({"spce": {}}, "spce"),
        ({"spec": {"workers": {"min": 2, "max": 1}}}, "is above max"),
    ],
)
def test_a_wrong_document_is_refused_with_the_right_field(
    growth: TestClient, body: dict[str, object], said: str
) -> None:
    before = growth.get(CLUSTER).headers["ETag"]
    answer = growth.put(CLUSTER, json=body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert growth.get(CLUSTER).headers["ETag"] == before


def test_a_body_that_is_not_json_is_refused(growth: TestClient) -> None:
    answer = growth.put(CLUSTER, content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")


def test_a_refusal_by_admission_is_403_with_a_remedy(growth: TestClient) -> None:
    answer = growth.put(CLUSTER, json={"spec": {"size": "smal"}})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:rayplane:problem:refused")
    assert "small" in answer.json()["remedy"]


def test_a_missing_object_names_the_nearest(growth: TestClient) -> None:
    answer = growth.get("/v1/teams/growth/clusters/dve")
    assert answer.status_code == 404
    assert "dev" in answer.text
    assert answer.json()["instance"] == "/v1/teams/growth/clusters/dve"


def test_an_unknown_path_and_a_wrong_method_are_problems(api: TestClient) -> None:
    nowhere = api.get("/v1/nowhere")
    assert (nowhere.status_code, nowhere.json()["status"]) == (404, 404)
    wrong = api.delete("/v1/info")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "urn:rayplane:problem:method-not-allowed")
    assert "GET" in wrong.headers["Allow"]
    for answer in (nowhere, wrong):
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_lists_have_pages_by_cursor_and_filter_by_label(growth: TestClient) -> None:
    for place in range(5):
        body = {"metadata": {"labels": {"odd": str(place % 2)}}, "spec": {}}
        assert growth.put(f"/v1/teams/growth/datasets/d{place}", json=body).is_success
    names, cursor = [], ""
    while cursor is not None:
        page = growth.get(f"/v1/teams/growth/datasets?limit=2{f'&cursor={cursor}' if cursor else ''}").json()
        names += [item["metadata"]["name"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert names == ["d0", "d1", "d2", "d3", "d4"]
    odd = growth.get("/v1/teams/growth/datasets?label=odd=1").json()["items"]
    assert [item["metadata"]["name"] for item in odd] == ["d1", "d3"]
    for query in ("limit=0", "limit=100000", "cursor=nonsense", "label=x"):
        assert growth.get(f"/v1/teams/growth/datasets?{query}").status_code == 422, query


def test_deleting_answers_202_and_marks_the_object(growth: TestClient) -> None:
    answer = growth.delete(CLUSTER)
    assert answer.status_code == 202
    assert answer.json()["metadata"]["deleted_at"]
    assert growth.get(answer.headers["Location"]).json()["action"] == "delete"
    assert growth.delete(CLUSTER).status_code == 202


def test_a_job_is_submitted_stopped_and_its_log_read_by_offset(growth: TestClient, platform: Platform) -> None:
    submitted = growth.post("/v1/teams/growth/jobs", json={"metadata": {"name": "train-1"}, "spec": JOB})
    assert (submitted.status_code, submitted.headers["Location"]) == (202, "/v1/teams/growth/jobs/train-1")
    job = submitted.json()
    platform.storage.append(f"growth/jobs/{job['metadata']['uid']}/driver.log", "grüße\n".encode())
    first = growth.get("/v1/teams/growth/jobs/train-1/logs")
    assert first.text == "grüße\n"
    assert (first.headers["X-Next-Offset"], first.headers["X-Log-Complete"]) == ("8", "false")
    rest = growth.get("/v1/teams/growth/jobs/train-1/logs?offset=8")
    assert (rest.content, rest.headers["X-Next-Offset"]) == (b"", "8")
    assert growth.post("/v1/teams/growth/jobs/train-1/stop").json()["spec"]["stop_requested"] is True
    platform.store.set_status(job["metadata"]["uid"], JobStatus(phase="Stopped"))
    assert growth.get("/v1/teams/growth/jobs/train-1/logs?offset=8").headers["X-Log-Complete"] == "true"
    assert growth.get("/v1/teams/growth/jobs/train-1/logs?offset=-1").status_code == 422


def test_a_request_for_more_of_a_log_waits_until_there_is_more_or_the_log_is_complete(
    growth: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LONGEST", 60.0)  # so that only a change ends the wait
    job = growth.post("/v1/teams/growth/jobs", json={"metadata": {"name": "train-1"}, "spec": JOB}).json()
    uid = job["metadata"]["uid"]
    path = "/v1/teams/growth/jobs/train-1/logs"
    assert growth.get(f"{path}?wait=0.1").content == b""
    assert growth.get(f"{path}?wait=21").status_code == 422

    def write() -> None:
        platform.storage.append(f"growth/jobs/{uid}/driver.log", b"more\n")
        platform.store.changes.tell([log_of(uid)])

    def end() -> None:
        platform.store.set_status(uid, JobStatus(phase="Stopped"))

    for act, offset, answered in ((write, 0, b"more\n"), (end, 5, b"")):
        began = time.monotonic()
        threading.Timer(0.2, act).start()
        answer = growth.get(f"{path}?offset={offset}&wait=20")
        assert answer.content == answered
        assert 0.1 < time.monotonic() - began < 15
    assert answer.headers["X-Log-Complete"] == "true"


def test_a_gateway_that_stops_ends_waiting_requests(growth: TestClient, platform: Platform) -> None:
    growth.post("/v1/teams/growth/jobs", json={"metadata": {"name": "train-1"}, "spec": JOB})
    threading.Timer(0.2, platform.store.changes.close).start()
    began = time.monotonic()
    answer = growth.get("/v1/teams/growth/jobs/train-1/logs?wait=20")
    assert (answer.status_code, answer.headers["X-Log-Complete"]) == (200, "false")
    assert time.monotonic() - began < 15


def test_a_pipelines_run_is_started_listed_and_stopped(growth: TestClient) -> None:
    spec = {"cluster": "dev", "parameters": {"days": "30"}, "steps": {"one": {"entrypoint": "true"}}}
    assert growth.put("/v1/teams/growth/pipelines/daily", json={"spec": spec}).is_success
    base = "/v1/teams/growth/pipelines/daily/runs"
    started = growth.post(base, json={"parameters": {"days": "7"}})
    assert (started.status_code, started.headers["Location"]) == (202, f"{base}/daily-1")
    assert started.json()["spec"]["parameters"] == {"days": "7"}
    assert [run["metadata"]["name"] for run in growth.get(base).json()["items"]] == ["daily-1"]
    wrong = growth.post(base, json={"parameters": {"dyas": "7"}})
    assert (wrong.status_code, "days" in wrong.text) == (422, True)
    assert growth.post(f"{base}/daily-1/stop").json()["spec"]["stop_requested"] is True
    assert growth.get(f"{base}/daily-9").status_code == 404


def test_a_datasets_versions_are_listed_newest_first(growth: TestClient, platform: Platform) -> None:
    for place in range(2):
        platform.store.put_dataset_version(
            DatasetVersion(
                team="growth", name="flights", version=f"{place}" * 16, content_hash=f"{place}" * 64, uri="file:///x",
                rows=1, bytes=1, columns=[Column(name="a", type="int64")],
            )
        )  # fmt: skip
    base = "/v1/teams/growth/datasets/flights/versions"
    growth.put("/v1/teams/growth/datasets/flights", json={"spec": {}})
    assert [v["version"][0] for v in growth.get(base).json()["items"]] == ["1", "0"]
    assert growth.get(f"{base}/latest").json()["version"] == "1" * 16
    assert growth.get(f"{base}/{'0' * 16}").json()["content_hash"] == "0" * 64
    assert growth.get(f"{base}/ffff").status_code == 404


def test_lineage_leases_and_audit_are_read_by_team(growth: TestClient, platform: Platform) -> None:
    platform.store.add_edges(
        "growth", [Edge(source="dataset:a@1", target="run:r"), Edge(source="run:r", target="model:m/1")]
    )
    edges = growth.get("/v1/teams/growth/lineage", params={"node": "model:m/1"}).json()["items"]
    assert {(e["source"], e["target"]) for e in edges} == {("dataset:a@1", "run:r"), ("run:r", "model:m/1")}
    assert (
        growth.get("/v1/teams/growth/lineage", params={"node": "model:m/1", "direction": "down"}).json()["items"] == []
    )
    assert growth.get("/v1/teams/growth/leases").json() == {"items": [], "next_cursor": None}
    entries = growth.get("/v1/teams/growth/audit").json()["items"]
    assert {"kind": "Cluster", "name": "dev"}.items() <= entries[0].items()
    assert growth.get("/v1/teams/growth/audit?limit=1").json()["next_cursor"]


def test_a_worker_reports_events_and_gets_its_context(
    growth: TestClient, anonymous: TestClient, platform: Platform
) -> None:
    uid = growth.get(CLUSTER).json()["metadata"]["uid"]
    headers = {"Authorization": f"Bearer {platform.signer.cluster_token('growth', uid)}"}
    context = anonymous.post("/v1/run-context", json={"submission_id": None}, headers=headers)
    assert (context.status_code, context.json()["cluster"]) == (200, "dev")
    job = growth.post("/v1/teams/growth/jobs", json={"spec": JOB}).json()
    attempt = f"{job['metadata']['uid']}-1"
    event = {"id": "e1", "type": "output.recorded", "submission_id": attempt, "data": {"name": "auc", "value": 0.7}}
    for new in (1, 0):
        answer = anonymous.post("/v1/events", json={"events": [event]}, headers=headers)
        assert (answer.status_code, answer.json()) == (202, {"received": 1, "new": new})
    assert anonymous.post("/v1/events", json={"events": []}, headers=headers).status_code == 422
    assert growth.post("/v1/events", json={"events": [event]}).status_code in (403, 422)


def test_metrics_count_requests_by_route_and_objects_by_phase(growth: TestClient) -> None:
    growth.get("/v1/teams/growth/clusters/nope")
    growth.get("/some/unknown/path")
    text = growth.get("/metrics").text
    route = 'route="/v1/teams/{team}/clusters/{name}",status="404"'
    assert f'rayplane_http_requests_total{{method="GET",{route}}}' in text
    assert 'route="unmatched",status="404"' in text
    assert "/some/unknown/path" not in text
    assert 'rayplane_objects{kind="Cluster"' in text
    assert "rayplane_build_info{" in text


def test_service_discovery_follows_clusters(growth: TestClient, platform: Platform) -> None:
    def ray_groups() -> list[dict[str, object]]:
        return growth.get("/sd/prometheus?component=ray").json()

    assert ray_groups() == []
    uid = growth.get(CLUSTER).json()["metadata"]["uid"]
    endpoint = Endpoint(dashboard_url="http://x", metrics_targets=["127.0.0.1:1", "127.0.0.1:2"])
    platform.store.set_status(uid, ClusterStatus(phase="Ready", endpoint=endpoint))
    labels = {"team": "growth", "cluster": "dev", "component": "ray"}
    assert ray_groups() == [{"targets": ["127.0.0.1:1", "127.0.0.1:2"], "labels": labels}]
    platform.store.set_status(uid, ClusterStatus(phase="Deleting", endpoint=endpoint))
    assert ray_groups() == []
    job = {"metadata": {"name": "train"}, "spec": {"entrypoint": "true", "nodes": {"size": "small"}}}
    uid = growth.post("/v1/teams/growth/jobs", json=job).json()["metadata"]["uid"]
    platform.store.set_status(uid, JobStatus(phase="Running", endpoint=endpoint))
    labels = {"team": "growth", "job": "train", "component": "ray"}
    assert ray_groups() == [{"targets": ["127.0.0.1:1", "127.0.0.1:2"], "labels": labels}]
    platform.store.set_status(uid, JobStatus(phase="Succeeded"))
    everything = growth.get("/sd/prometheus").json()
    assert [group["labels"]["component"] for group in everything] == ["gateway"]


def test_packages_are_stored_under_their_hash(growth: TestClient, zipped: tuple[str, bytes]) -> None:
    sha256, data = zipped
    url = f"/v1/teams/growth/packages/{sha256}"
    assert growth.head(url).status_code == 404
    assert growth.put(url, content=data).status_code == 201
    assert growth.head(url).status_code == 200
    assert growth.put(f"/v1/teams/growth/packages/{'0' * 64}", content=data).status_code == 422
    assert growth.put("/v1/teams/growth/packages/xyz", content=data).status_code == 422


def test_a_package_that_is_too_large_is_refused(
    growth: TestClient, zipped: tuple[str, bytes], platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform.settings, "max_package_bytes", 10)
    answer = growth.put(f"/v1/teams/growth/packages/{zipped[0]}", content=zipped[1])
    assert (answer.status_code, ".rayignore" in answer.json()["remedy"]) == (413, True)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    growth: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayplane.gateway.api import limit

    monkeypatch.setattr(limit, "MAX_BYTES", 100)
    answer = growth.post("/v1/plan", content=b"x" * 101)
    assert (answer.status_code, answer.json()["detail"][:24]) == (413, "The request has more tha")
    in_parts = growth.post("/v1/plan", content=(b"x" * 60 for _ in range(2)))
    assert (in_parts.status_code, in_parts.json()["detail"][:24]) == (413, "The request has more tha")


def test_headers_that_are_too_long_are_refused(growth: TestClient) -> None:
    for headers in ({"x": "y" * 70_000}, {f"x{n}": "y" * 100 for n in range(700)}):
        answer = growth.get("/v1/teams", headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (431, "urn:rayplane:problem:headers-too-large")
    assert growth.get("/v1/teams", headers={"x": "y" * 60_000}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/teams/growth/jobs/x/logs?offset=99999999999999999999"),
        ("GET", "/v1/teams/growth/jobs/x/logs?offset=9223372036854775807"),
        ("GET", "/v1/teams/growth/audit?cursor=WzEwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMF0"),
        ("GET", "/v1/teams/growth/usage?since=0001-01-01T00:00:00%2B14:00"),
        ("PUT", "/v1/teams/growth/clusters/new%0A"),
    ],
)
def test_names_that_no_column_or_file_can_hold_are_bad_input(growth: TestClient, method: str, path: str) -> None:
    answer = growth.request(method, path, json={"spec": {}} if method == "PUT" else None)
    assert answer.status_code in (400, 422), answer.text


def test_info_has_versions_urls_and_the_principal(api: TestClient) -> None:
    info = api.get("/v1/info").json()
    assert info["api_version"] == 1
    assert info["principal"]["role"] == "admin"
    assert info["environment"]["ray"]
    assert info["local_users"] is False


def test_the_schema_names_every_noun_and_its_real_fields(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    operations = {op["operationId"]: op for path in schema["paths"].values() for op in path.values()}
    for noun in NOUNS:
        for verb in ("get", "put", "delete"):
            assert f"{verb}_{noun.singular}" in operations
        assert f"list_{noun.plural}" in operations
        assert f"{noun.kind}Document" in schema["components"]["schemas"]
        document = schema["components"]["schemas"][f"{noun.kind}Document"]["properties"]
        assert set(document["spec"]["properties"]) == set(noun.spec.model_fields)
        answer = operations[f"get_{noun.singular}"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert answer == {"$ref": f"#/components/schemas/{noun.kind}"}
    assert operations["healthz"]["security"] == []


def test_an_unexpected_error_is_a_problem_that_reveals_no_secret(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    from rayplane.gateway.api import info
    from rayplane.gateway.api.app import create_app

    def broken(_: Platform) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(info, "default_environment", broken)
    client = TestClient(create_app(platform), raise_server_exceptions=False)
    answer = client.get("/v1/info", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "application/problem+json")
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "document",
    [
        {"spec": {**JOB, "values": {"a": ["\ud800"]}}},
        {"spec": {**JOB, "resources": {"cpu": "\ud800"}}},
        {"spec": {**JOB, "\ud800": 1}},
        {"metadata": {"name": "\ud800"}, "spec": JOB},
        {"metadata": {"name": "a", "labels": {"\ud800": ""}}, "spec": JOB},
    ],
)
def test_half_of_a_surrogate_pair_is_refused_in_every_field(growth: TestClient, document: dict[str, Any]) -> None:
    answer = growth.post("/v1/teams/growth/jobs", content=json.dumps(document), headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:rayplane:problem:invalid-spec")
    assert "half of a surrogate pair" in answer.json()["detail"]
    assert growth.get("/v1/teams/growth/jobs").json()["items"] == []


def test_an_event_with_invalid_text_is_refused(growth: TestClient) -> None:
    event = {"id": "e1", "type": "output.recorded", "data": {"name": "n", "value": "\ud800"}}
    answer = growth.post("/v1/events", params={"team": "growth"}, content=json.dumps({"events": [event]}), headers=JSON)
    assert answer.status_code == 422
    assert "events.0.data: it holds half of a surrogate pair" in answer.json()["detail"]
