"""Lists and single objects over HTTP, in full and in summary; Ray's list of jobs, which is limited."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from rayplane.gateway.api import ray_proxy
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import NOUNS
from rayplane.nouns.job import JobStatus

JOBS = "/v1/teams/growth/jobs"


def submit(api: TestClient, name: str, **more: Any) -> dict[str, Any]:
    body = {"metadata": {"name": name}, "spec": {"entrypoint": "echo ☀", "cluster": "dev", **more}}
    answer = api.post(JOBS, json=body)
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_list_and_a_single_object_equal_the_response_to_the_write(growth: TestClient) -> None:
    made = [submit(growth, f"j{number}", parameters={"day": str(number)}) for number in range(3)]
    assert growth.get(JOBS).json() == {"items": made, "next_cursor": None}
    one = growth.get(f"{JOBS}/j1")
    assert one.json() == made[1]
    assert one.headers["ETag"] == f'"{made[1]["metadata"]["resource_version"]}"'
    assert one.headers["Content-Type"] == "application/json"


def test_a_summary_leaves_out_spec_and_status_but_for_the_phase(growth: TestClient, platform: Platform) -> None:
    made = [submit(growth, f"j{number}") for number in range(3)]
    platform.store.set_status(made[0]["metadata"]["uid"], JobStatus(phase="Running"))
    page = growth.get(JOBS, params={"view": "summary", "limit": 2}).json()
    assert [(item["metadata"]["name"], item["phase"]) for item in page["items"]] == [
        ("j0", "Running"),
        ("j1", "Pending"),
    ]
    assert all(set(item) == {"kind", "metadata", "phase"} for item in page["items"])
    rest = growth.get(JOBS, params={"view": "summary", "cursor": page["next_cursor"]}).json()
    assert rest["items"] == [{"kind": "Job", "metadata": made[2]["metadata"], "phase": "Pending"}]
    assert growth.get(JOBS, params={"view": "other"}).status_code == 422


@pytest.mark.parametrize("view", ["full", "summary"])
def test_lists_and_summaries_match_the_schema(growth: TestClient, view: str) -> None:
    submit(growth, "train")
    schema = growth.get("/openapi.json").json()
    for noun in NOUNS:
        path = f"/v1/teams/{{team}}/{noun.plural}" if noun.team_scoped else f"/v1/{noun.plural}"
        answer = growth.get(path.format(team="growth"), params={"view": view})
        assert answer.status_code == 200
        documented = schema["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator({**documented, "components": schema["components"]}).validate(answer.json())


def test_a_list_of_an_unknown_team_is_not_found(growth: TestClient) -> None:
    answer = growth.get("/v1/teams/groth/jobs")
    assert (answer.status_code, "Did you mean 'growth'?" in answer.json()["remedy"]) == (404, True)


def test_rays_list_has_only_the_newest_jobs(growth: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_proxy, "MOST_LISTED", 3)
    for number in range(5):
        submit(growth, f"j{number}", submission_id=f"raysubmit_{number}")
    listed = growth.get("/growth/dev/api/jobs/").json()
    assert [job["submission_id"] for job in listed] == ["raysubmit_2", "raysubmit_3", "raysubmit_4"]
    assert growth.get("/growth/nope/api/jobs/").status_code == 404


def test_an_odd_stored_job_does_not_hide_the_others_in_rays_list(growth: TestClient, platform: Platform) -> None:
    made = submit(growth, "odd", submission_id="raysubmit_odd")
    submit(growth, "plain", submission_id="raysubmit_plain")
    deep: dict[str, object] = {}
    for _ in range(230):
        deep = {"deeper": deep}
    status = JobStatus(phase="Failed", message="no text: \ud800").model_dump(mode="json")
    platform.store.set_status(made["metadata"]["uid"], {**status, "values": deep})
    listed = growth.get("/growth/dev/api/jobs/")
    assert [job["submission_id"] for job in listed.json()] == ["raysubmit_odd", "raysubmit_plain"]


def test_rays_list_has_the_same_details_of_a_job_as_its_own_route(growth: TestClient, platform: Platform) -> None:
    made = submit(
        growth, "full", env={"A": "ü"}, pip=["polars"], metadata={"k": "v"}, submission_id="raysubmit_1", retries=2
    )
    status = JobStatus(
        phase="Failed", message="exit code 3", exit_code=3,
        started_at="2026-01-01T00:00:01.5Z", ended_at="2026-01-01T00:00:02Z",
    )  # type: ignore[arg-type]  # fmt: skip
    platform.store.set_status(made["metadata"]["uid"], status)
    submit(growth, "plain")
    listed = growth.get("/growth/dev/api/jobs/").json()
    assert listed == [growth.get(f"/growth/dev/api/jobs/{name}").json() for name in ("raysubmit_1", "plain")]
    assert listed[0]["runtime_env"] == {"env_vars": {"A": "ü"}, "pip": ["polars"]}
    assert (listed[0]["start_time"], listed[0]["end_time"]) == (1767225601500, 1767225602000)
