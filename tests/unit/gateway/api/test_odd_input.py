"""Malformed and extreme requests: the response is a problem with the reason, never a 500, and nothing is created."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import re
import sqlite3
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from rayplane.gateway.api.app import create_app
from rayplane.gateway.store import database
from rayplane.gateway.usecases import archive
from rayplane.gateway.usecases.platform import Platform
from tests.unit.gateway.api.served import platform_without_compute, serve

CLUSTER = "/v1/teams/growth/clusters/dev"
JOBS = "/v1/teams/growth/jobs"
JSON = {"Content-Type": "application/json"}
JOB = {"entrypoint": "python -m jobs.train", "cluster": "dev"}


@pytest.fixture
def growth(platform: Platform, token: str) -> TestClient:
    """A client, with team ``growth`` and its cluster ``dev``; unhandled exceptions become a 500, as in the gateway."""
    client = TestClient(
        create_app(platform), headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False
    )
    assert client.put("/v1/teams/growth", json={"spec": {}}).is_success
    assert client.put(CLUSTER, json={"spec": {}}).is_success
    return client


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize("value", [f'"{"9" * 5000}"', "9" * 20, '""', '"-1"', '"1.0"', '"1", "2"', "W/"])
def test_an_if_match_that_is_no_etag_of_this_api_is_refused(growth: TestClient, value: str) -> None:
    before = growth.get(CLUSTER).headers["ETag"]
    for method in ("PUT", "DELETE"):
        body = {"spec": {"suspended": True}} if method == "PUT" else None
        answer = growth.request(method, CLUSTER, json=body, headers={"If-Match": value})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:rayplane:problem:invalid-input")
        assert "is not an ETag of this API" in answer.json()["detail"]
        assert len(answer.json()["detail"]) < 200
    assert growth.get(CLUSTER).headers["ETag"] == before


@pytest.mark.parametrize("value", ['"²"', "¹²", '"\xa0"'])
def test_an_if_match_with_digits_beyond_ascii_is_refused(growth: TestClient, platform: Platform, value: str) -> None:
    with serve(platform) as url:  # a test client writes headers as UTF-8, in which a superscript is two characters
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        headers = {"Authorization": growth.headers["Authorization"], "If-Match": value, **JSON}
        connection.request("PUT", CLUSTER, body=b'{"spec": {}}', headers=headers)
        answer = connection.getresponse()
        problem = json.loads(answer.read())
        connection.close()
    assert (answer.status, problem["type"]) == (422, "urn:rayplane:problem:invalid-input")
    assert "is not an ETag of this API" in problem["detail"]


@pytest.mark.parametrize("form", ['"{}"', "{}", 'W/"{}"', '  "{}" '])
def test_an_etag_is_accepted_in_each_of_its_forms(growth: TestClient, form: str) -> None:
    etag = form.format(growth.get(CLUSTER).headers["ETag"].strip('"'))
    assert growth.put(CLUSTER, json={"spec": {"suspended": True}}, headers={"If-Match": etag}).is_success


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3000,
        '["\\ud800", "a"]',
        '["a", "\\udfff"]',
        '["0001-01-01T00:00:00+23:59", "a"]',
        '["9999-12-31T23:59:59-23:59", "a"]',
        '["2026-01-01T00:00:00", "a"]',
        '["2026-01-01", "a"]',
        "9" * 5000,
        f"[{'9' * 5000}]",
        "[1e400, 1e400]",
        "[NaN]",
        "{}",
        "null",
        "\x00",
    ],
)
def test_a_cursor_that_no_list_has_returned_is_refused(growth: TestClient, text: str) -> None:
    for path in ("/v1/teams", JOBS, "/v1/teams/growth/leases", "/v1/teams/growth/audit"):
        answer = growth.get(path, params={"cursor": cursor(text)})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:rayplane:problem:invalid-input"), path
        assert "is not a cursor of this list" in answer.json()["detail"]


def test_a_log_offset_that_no_file_can_have_is_refused(growth: TestClient, platform: Platform) -> None:
    job = growth.post(JOBS, json={"metadata": {"name": "train"}, "spec": JOB}).json()
    platform.storage.append(f"growth/jobs/{job['metadata']['uid']}/driver.log", b"line\n")
    assert growth.get(f"{JOBS}/train/logs?offset={2**60}").status_code == 422
    beyond = growth.get(f"{JOBS}/train/logs?offset={2**53 - 1}")
    assert (beyond.status_code, beyond.content, beyond.headers["X-Next-Offset"]) == (200, b"", str(2**53 - 1))


def put_package(growth: TestClient, data: bytes) -> Any:
    return growth.put(f"/v1/teams/growth/packages/{hashlib.sha256(data).hexdigest()}", content=data)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_a_package_with_a_damaged_file_is_refused_by_both_apis(growth: TestClient, method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        made.writestr("train.py", "print(1)\n" * 500)
    data = bytearray(buffer.getvalue())
    data[38:50] = b"\xff" * 12
    answer = put_package(growth, bytes(data))
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:rayplane:problem:invalid-data")
    by_ray = growth.put("/growth/dev/api/packages/gcs/_ray_pkg_1.zip", content=bytes(data))
    assert by_ray.status_code == 400


def test_a_package_that_unpacks_to_more_than_the_limit_is_too_large(
    growth: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_UNPACKED", 2**20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("zeros", bytes(2**21))
    assert len(buffer.getvalue()) < 2**12
    answer = put_package(growth, buffer.getvalue())
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:rayplane:problem:too-large")
    assert "more than 1 MiB" in answer.json()["detail"]


@pytest.fixture
def worker(growth: TestClient, platform: Platform) -> dict[str, str]:
    """Headers with the token of the cluster's workers."""
    uid = growth.get(CLUSTER).json()["metadata"]["uid"]
    return {"Authorization": f"Bearer {platform.signer.cluster_token('growth', uid)}", **JSON}


def event(**fields: Any) -> bytes:
    made = {"id": "e1", "type": "output.recorded", "data": {"name": "auc", "value": 1}, **fields}
    return json.dumps({"events": [made]}).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (event(time="0001-01-01T00:00:00+23:59"), "is in no year of UTC"),
        (event(time="9999-12-31T23:59:59-23:59"), "is in no year of UTC"),
        (
            event(type="features.materialized", data={"views": [], "end": "0001-01-01T00:00:00+01:00"}),
            "features.materialized.end: '0001-01-01T00:00:00+01:00' is in no year of UTC",
        ),
        (event(data={"name": "x", "value": json.loads("[" * 101 + "]" * 101)}), "it is nested too deeply"),
        (event(id="\ud800"), "events.0.id: it holds half of a surrogate pair"),
        (event(submission_id="\ud800-1"), "events.0.submission_id: it holds half of a surrogate pair"),
    ],
)
def test_an_event_with_a_value_that_can_not_be_stored_is_refused(
    growth: TestClient, worker: dict[str, str], body: bytes, message: str
) -> None:
    answer = growth.post("/v1/events", content=body, headers=worker)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_a_models_version_of_any_length_is_accepted(growth: TestClient, worker: dict[str, str]) -> None:
    for number, version in enumerate(("3", "9" * 5000, "²", "4")):
        data = {"name": "delay", "version": version, "run_id": "r"}
        body = event(id=f"e{number}", type="model.registered", data=data)
        answer = growth.post("/v1/events", content=body, headers=worker)
        assert answer.status_code == 202, answer.text
    assert growth.get("/v1/teams/growth/models/delay").json()["status"]["latest"] == "4"


@pytest.mark.parametrize("bad", ["a\0b", "\x1b[2J", "a\u202egpj", "\u2066", "\u200f", "\n", "\x9b"])
def test_a_label_with_a_control_or_bidirectional_character_is_refused(growth: TestClient, bad: str) -> None:
    for labels in ({bad: "v"}, {"k": bad}):
        for method, path, spec in (
            ("PUT", "/v1/teams/growth", {}),
            ("PUT", CLUSTER, {"suspended": True}),
            ("PUT", f"{JOBS}/train", JOB),
            ("POST", JOBS, JOB),
        ):
            answer = growth.request(method, path, json={"metadata": {"labels": labels}, "spec": spec})
            assert (answer.status_code, answer.json()["type"]) == (422, "urn:rayplane:problem:invalid-spec"), path
            assert ".metadata.labels: label " in answer.json()["detail"]
            assert re.search(r"holds U\+[0-9A-F]{4}, a control or bidirectional", answer.json()["detail"])
            assert answer.json()["detail"].isprintable()
        document = {"kind": "Cluster", "metadata": {"name": "x", "labels": labels}, "spec": {}}
        assert growth.post("/v1/plan", json={"documents": [document], "team": "growth"}).status_code == 422
    asked = growth.get(CLUSTER.removesuffix("/dev"), params={"label": f"k={bad}"})
    assert (asked.status_code, asked.json()["type"]) == (422, "urn:rayplane:problem:invalid-input")
    assert growth.get(JOBS).json()["items"] == []
    assert growth.get(CLUSTER).json()["metadata"]["labels"] == {}


@pytest.mark.parametrize("key", ['a"b', '"', "a\\b", '"] = 1 --'])
def test_a_labels_key_that_no_query_can_name_is_refused(growth: TestClient, key: str) -> None:
    assert growth.put(CLUSTER, json={"metadata": {"labels": {key: "v"}}, "spec": {}}).status_code == 422
    assert growth.get(JOBS, params={"label": f"{key}=v"}).status_code == 422
    assert growth.get(JOBS, params={"label": [f"k{number}=v" for number in range(2000)]}).status_code == 422


@pytest.mark.parametrize("field", ["experiment", "submission_id", "pipeline"])
def test_names_in_a_spec_must_be_plain_text(growth: TestClient, field: str) -> None:
    value = "a/b/\x1b[2J" if field == "pipeline" else "a\x1b[2J"
    answer = growth.post(JOBS, json={"spec": {**JOB, field: value}})
    assert (answer.status_code, f"job.{field}: " in answer.json()["detail"]) == (422, True)
    assert growth.put("/v1/teams/growth", json={"spec": {"members": {"a\x1b": "viewer"}}}).status_code == 422


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("teams", {"quota": {"clusters": 10**400}}),
        ("teams", {"quota": {"cpu": 10**400}}),
        ("teams", {"sizes": {"small": {"cpu": 10**400, "memory": 1}}}),
        ("teams", {"idle_timeout": 10**400}),
        ("clusters", {"workers": {"min": 0, "max": 10**400}}),
        ("clusters", {"workers": 10**400}),
        ("clusters", {"workers": "0.." + "9" * 5000}),
        ("clusters", {"workers": "²"}),
        ("clusters", {"max_lifetime": 10**400}),
        ("services", {"model": "models:/m/1", "cluster": "dev", "replicas": {"max": 10**400}}),
        ("services", {"model": "models:/m/1", "cluster": "dev", "max_ongoing_requests": 10**400}),
        ("models", {"gate": {"metrics": {"auc": {"min": 10**400}}}}),
        ("jobs", {**JOB, "timeout": 10**400}),
        ("jobs", {**JOB, "resources": {"cpu": 10**400}}),
        ("jobs", {**JOB, "values": {"a": json.loads("[" * 200 + "]" * 200)}}),
    ],
)
def test_too_large_numbers_and_too_deep_nesting_are_refused(growth: TestClient, kind: str, spec: Any) -> None:
    path = "/v1/teams/growth" if kind == "teams" else f"/v1/teams/growth/{kind}/odd"
    answer = growth.put(path, json={"spec": spec})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:rayplane:problem:invalid-spec"), answer.text
    assert len(answer.json()["detail"]) < 500
    document = {"kind": {"teams": "Team"}.get(kind, kind[:-1].title()), "metadata": {"name": "odd"}, "spec": spec}
    planned = growth.post("/v1/plan", json={"documents": [document], "team": "growth"})
    assert planned.status_code == 422 or not planned.json()["allowed"]


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"spec": {"a": ' + b"9" * 5000 + b"}}", b'{"spec": "\xff"}', b"\x00"]
)
def test_a_body_that_pythons_json_parser_can_not_read_is_refused(growth: TestClient, body: bytes) -> None:
    for method, path in (("PUT", CLUSTER), ("POST", JOBS), ("POST", "/v1/plan"), ("POST", "/v1/events")):
        answer = growth.request(method, path, content=body, headers=JSON)
        assert answer.status_code in (400, 422)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "JSON" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/plan", {"\ud800": 1}),
        ("/v1/plan", {"documents": [], "team": "\ud800"}),
        ("/v1/run-context", {"submission_id": "\ud800-1"}),
        (f"{CLUSTER}/extend", {"\ud800": 1}),
        (f"{CLUSTER}/extend", {"duration": "\ud800"}),
        ("/v1/teams/growth/pipelines/p/runs", {"parameters": {"\ud800": "\ud800"}}),
        ("/growth/dev/api/jobs/", {"\ud800": 1}),
        ("/growth/dev/api/jobs/", {"entrypoint": "x", "runtime_env": {"working_dir": "gcs://\ud800"}}),
        ("/growth/dev/api/jobs/", {"entrypoint": "x", "metadata": {"\ud800": "x"}}),
    ],
)
def test_a_problem_may_repeat_invalid_text(growth: TestClient, path: str, body: Any) -> None:
    answer = growth.post(path, content=json.dumps(body), headers=JSON)
    assert answer.status_code in (400, 422), answer.text
    answer.content.decode()


@pytest.mark.parametrize("part", ["a\0b", "a\x1b[2J", "x" * 300, "²", "%", "a\u202eb"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/teams/{}",
        "/v1/teams/{}/jobs",
        "/v1/teams/growth/clusters/{}",
        "/v1/teams/growth/clusters/{}/why",
        "/v1/teams/growth/jobs/{}/logs",
        "/v1/teams/growth/pipelines/{}/runs",
        "/v1/teams/growth/datasets/{}/versions/{}",
        "/v1/operations/{}",
        "/{}/dev/api/packages/gcs/_ray_pkg_1.zip",
        "/growth/dev/api/packages/gcs/{}",
        "/growth/{}/api/version",
        "/growth/dev/api/jobs/{}",
        "/growth/dev/api/jobs/{}/logs",
    ],
)
def test_a_path_with_any_characters_gets_a_response(growth: TestClient, path: str, part: str) -> None:
    answer = growth.get(path.replace("{}", quote(part, safe="")))
    assert answer.status_code < 500, answer.text
    if answer.headers["Content-Type"].startswith("text/plain"):  # Ray's command prints it to a terminal
        assert answer.text.isprintable()


def test_a_number_that_json_does_not_have_is_returned_as_null(growth: TestClient) -> None:
    body = json.dumps({"metadata": {"name": "train"}, "spec": {**JOB, "values": {"a": float("nan")}}})
    document = {"kind": "Job", **json.loads(body)}
    planned = growth.post("/v1/plan", content=json.dumps({"documents": [document], "team": "growth"}), headers=JSON)
    assert planned.status_code < 500, planned.text
    assert growth.post(JOBS, content=body, headers=JSON).json()["spec"]["values"] == {"a": None}


def test_a_submission_keeps_its_labels_and_unknown_metadata_is_refused(growth: TestClient) -> None:
    body = {"metadata": {"name": "train", "labels": {"who": "ada"}}, "spec": JOB}
    made = growth.post(JOBS, json=body)
    assert (made.status_code, made.json()["metadata"]["labels"]) == (202, {"who": "ada"})
    assert [job["metadata"]["name"] for job in growth.get(f"{JOBS}?label=who=ada").json()["items"]] == ["train"]
    unnamed = growth.post(JOBS, json={"metadata": {"name": None, "labels": {"who": "bob"}}, "spec": JOB}).json()
    assert unnamed["metadata"]["labels"] == {"who": "bob"}
    for metadata, message in (
        ({"lables": {}}, "job.metadata.lables: unknown field. Did you mean 'labels'?"),
        ({"annotations": {"a": "b"}}, "job.metadata.annotations: unknown field"),
        ({"team": "sales"}, "the URL says 'growth'"),
        ({"labels": {"a": 1}}, "job.metadata.labels.a"),
        ({"name": ""}, "is not a name"),
    ):
        answer = growth.post(JOBS, json={"metadata": metadata, "spec": JOB})
        assert (answer.status_code, message in answer.json()["detail"]) == (422, True), answer.text
    assert len(growth.get(JOBS).json()["items"]) == 2


def test_a_jobs_labels_change_by_put_and_stay_if_it_names_none(growth: TestClient) -> None:
    first = growth.post(JOBS, json={"metadata": {"name": "train", "labels": {"a": "1"}}, "spec": JOB})
    again = growth.post(JOBS, json={"metadata": {"name": "train"}, "spec": JOB})
    assert (again.headers["ETag"], again.json()["metadata"]["labels"]) == (first.headers["ETag"], {"a": "1"})
    dry = growth.put(f"{JOBS}/train?dry_run=true", json={"metadata": {"labels": {"a": "2"}}, "spec": JOB})
    assert (dry.headers["X-Change"], dry.json()["metadata"]["labels"]) == ("changed", {"a": "2"})
    assert growth.get(f"{JOBS}/train").json()["metadata"]["labels"] == {"a": "1"}
    changed = growth.put(f"{JOBS}/train", json={"metadata": {"labels": {"a": "2"}}, "spec": JOB})
    assert (changed.status_code, changed.headers["X-Change"]) == (200, "changed")
    assert changed.json()["metadata"]["labels"] == {"a": "2"}
    assert changed.json()["metadata"]["generation"] == first.json()["metadata"]["generation"]
    same = growth.put(f"{JOBS}/train", json={"metadata": {"labels": {"a": "2"}}, "spec": JOB})
    assert (same.status_code, same.headers["X-Change"]) == (200, "unchanged")


def test_if_match_guards_an_existing_job(growth: TestClient) -> None:
    etag = growth.post(JOBS, json={"metadata": {"name": "train"}, "spec": JOB}).headers["ETag"]
    stale = growth.put(f"{JOBS}/train", json={"spec": JOB}, headers={"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["type"]) == (412, "urn:rayplane:problem:precondition-failed")
    assert growth.put(f"{JOBS}/train", json={"spec": JOB}, headers={"If-Match": etag}).is_success
    absent = growth.put(f"{JOBS}/other", json={"spec": JOB}, headers={"If-Match": '"1"'})
    assert (absent.status_code, "is not there" in absent.json()["detail"]) == (412, True)


@pytest.mark.parametrize(("path", "spec"), [(CLUSTER, {}), ("/v1/teams/growth", {}), (f"{JOBS}/train", JOB)])
def test_if_none_match_only_creates_missing_objects(growth: TestClient, path: str, spec: Any) -> None:
    growth.put(path, json={"spec": spec})
    before = growth.get(path).headers["ETag"]
    for query in ("", "?dry_run=true"):
        refused = growth.put(path + query, json={"spec": spec}, headers={"If-None-Match": "*"})
        assert (refused.status_code, refused.json()["type"]) == (412, "urn:rayplane:problem:precondition-failed")
        assert "is there already" in refused.json()["detail"]
    assert growth.get(path).headers["ETag"] == before
    new = path.rsplit("/", 1)[0] + "/fresh"
    assert growth.put(new, json={"spec": spec}, headers={"If-None-Match": "*"}).headers["X-Change"] == "created"
    odd = growth.put(new, json={"spec": spec}, headers={"If-None-Match": '"3"'})
    assert (odd.status_code, "Send *" in odd.json()["remedy"]) == (422, True)


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
def test_an_idempotency_key_with_another_precondition_is_another_request(growth: TestClient, header: str) -> None:
    etag = growth.get(CLUSTER).headers["ETag"]
    body, key = {"spec": {"suspended": True}}, {"Idempotency-Key": "k1"}
    first = growth.put(CLUSTER, json=body, headers={**key, "If-Match": etag})
    assert first.is_success
    again = growth.put(CLUSTER, json=body, headers={**key, "If-Match": etag})  # the first response was lost
    assert (again.headers["ETag"], again.headers["X-Replayed"]) == (first.headers["ETag"], "true")
    other = growth.put(CLUSTER, json=body, headers={**key, header: "*" if header == "If-None-Match" else '"999"'})
    assert other.status_code == 409
    assert "came with another request" in other.json()["detail"]
    assert growth.put(CLUSTER, json=body, headers=key).status_code == 409


def test_a_database_that_stays_locked_is_503_in_bounded_time_and_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.5)
    with platform_without_compute(tmp_path) as platform:
        token = platform.settings.home_paths.token.read_text().strip()
        api = TestClient(create_app(platform), headers={"Authorization": f"Bearer {token}"})
        assert api.put("/v1/teams/growth", json={"spec": {}}).is_success
        other = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            ready = api.get("/readyz")
            assert (ready.status_code, ready.headers["Retry-After"]) == (503, "5")
            assert "is kept locked by another process" in ready.json()["detail"]
            began = time.monotonic()
            refused = api.put("/v1/teams/sales", json={"spec": {}})
            assert time.monotonic() - began < 20
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
            assert "is kept locked by another process" in refused.json()["detail"]
            assert api.get("/v1/teams/growth").status_code == 200
            assert api.get("/healthz").status_code == 200
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert api.get("/readyz").status_code == 200
        assert api.put("/v1/teams/sales", json={"spec": {}}).is_success
