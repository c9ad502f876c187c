"""Ray's own JobSubmissionClient against the gateway, without a Ray cluster: tests write jobs' status to the store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from aiohttp import WSServerHandshakeError
from fastapi.testclient import TestClient
from ray.dashboard.modules import dashboard_sdk
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus as RayStatus
from ray.job_submission import JobSubmissionClient

from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.job import JobStatus
from rayplane.storage import layout
from tests.unit.gateway.api.served import serve


@pytest.fixture
def url(platform: Platform, growth: TestClient) -> Iterator[str]:
    with serve(platform) as served:
        yield served


@pytest.fixture
def ray(url: str, token: str) -> JobSubmissionClient:
    return _client(url, token)


def _client(url: str, token: str, where: str = "growth/dev") -> JobSubmissionClient:
    return JobSubmissionClient(f"{url}/{where}", headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text("print('hello')\n")
    return code


def _advance(platform: Platform, name: str, log: bytes = b"", **status: object) -> None:
    job = platform.store.get("Job", "growth", name)
    if log:
        platform.storage.append(layout.job_log("growth", job.metadata.uid), log)
    if status:
        platform.store.set_status(job.metadata.uid, JobStatus.model_validate(status))


def _name(platform: Platform) -> str:
    (job,) = platform.store.list("Job", "growth").items
    return job.metadata.name


async def _read(stream: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in stream])


def test_submitting_uploads_the_folder_once_and_creates_a_job(
    ray: JobSubmissionClient, platform: Platform, folder: Path
) -> None:
    environment = {"working_dir": str(folder), "env_vars": {"A": "b"}, "pip": ["polars"]}
    first = ray.submit_job(entrypoint="python train.py", runtime_env=environment, metadata={"k": "v"})
    ray.submit_job(entrypoint="python train.py", runtime_env=environment)
    jobs = platform.store.list("Job", "growth").items
    assert len(jobs) == 2
    spec = jobs[0].spec_data
    assert (spec["entrypoint"], spec["cluster"]) == ("python train.py", "dev")
    assert (spec["env"], spec["pip"]) == ({"A": "b"}, ["polars"])
    sha256 = spec["package"].removeprefix("sha256:")
    assert spec["package"] == jobs[1].spec_data["package"]
    assert platform.storage.exists(layout.package("growth", sha256))
    assert first == jobs[0].metadata.name
    assert ray.get_job_info(first).metadata == {"k": "v"}


def test_status_log_and_list_are_answered_from_the_store(ray: JobSubmissionClient, platform: Platform) -> None:
    submitted = ray.submit_job(entrypoint="python train.py", submission_id="raysubmit_My1")
    assert submitted == "raysubmit_My1"
    assert ray.get_job_status(submitted) == RayStatus.PENDING
    assert ray.get_job_logs(submitted) == ""
    name = _name(platform)
    _advance(platform, name, log="grüße\n".encode(), phase="Running", started_at="2026-01-01T00:00:00Z")
    assert ray.get_job_status(submitted) == RayStatus.RUNNING
    _advance(platform, name, log=b"done\n", phase="Failed", message="exit code 3", exit_code=3)
    info = ray.get_job_info(submitted)
    assert (info.status, info.message, info.driver_exit_code) == (RayStatus.FAILED, "exit code 3", 3)
    assert ray.get_job_logs(submitted) == "grüße\ndone\n"
    assert [job.submission_id for job in ray.list_jobs()] == ["raysubmit_My1"]
    assert ray.get_version() == "4"


def test_a_list_holds_only_its_own_clusters_jobs(
    ray: JobSubmissionClient, url: str, token: str, growth: TestClient
) -> None:
    assert growth.put("/v1/teams/growth/clusters/other", json={"spec": {}}).is_success
    ray.submit_job(entrypoint="true")
    assert len(ray.list_jobs()) == 1
    assert _client(url, token, "growth/other").list_jobs() == []


def test_the_same_submission_id_again_is_the_same_job_and_another_is_refused(
    ray: JobSubmissionClient, platform: Platform
) -> None:
    for _ in range(2):
        assert ray.submit_job(entrypoint="true", submission_id="mine") == "mine"
    assert len(platform.store.list("Job", "growth").items) == 1
    with pytest.raises(RuntimeError, match=r"status code 409.*mine"):
        ray.submit_job(entrypoint="false", submission_id="mine")


def test_stop_and_delete_act_on_the_job(ray: JobSubmissionClient, platform: Platform) -> None:
    job = ray.submit_job(entrypoint="sleep 60")
    with pytest.raises(RuntimeError, match="Stop it first"):
        ray.delete_job(job)
    assert ray.stop_job(job) is True
    assert platform.store.get("Job", "growth", job).spec_data["stop_requested"] is True
    _advance(platform, job, phase="Stopped")
    assert ray.stop_job(job) is False
    assert ray.delete_job(job) is True
    assert platform.store.get("Job", "growth", job).metadata.deleted_at is not None


def test_tailing_follows_the_log_until_the_job_has_ended(ray: JobSubmissionClient, platform: Platform) -> None:
    job = ray.submit_job(entrypoint="true")
    half = "grüße\n".encode()
    _advance(platform, job, log=half[:3], phase="Running")

    def complete() -> None:
        _advance(platform, job, log=half[3:])
        _advance(platform, job, log=b"end\n")
        _advance(platform, job, phase="Succeeded")

    timer = threading.Timer(1.0, complete)
    timer.start()
    text = asyncio.run(_read(ray.tail_job_logs(job)))
    timer.join()
    assert text == "grüße\nend\n"
    assert ray.get_job_status(job) == RayStatus.SUCCEEDED


def test_many_tails_do_not_block_the_gateway(ray: JobSubmissionClient, platform: Platform, url: str) -> None:
    job = ray.submit_job(entrypoint="true")

    async def tails() -> list[str]:
        followed = [asyncio.ensure_future(_read(ray.tail_job_logs(job))) for _ in range(60)]
        async with httpx.AsyncClient() as client:
            await asyncio.sleep(1)
            for _ in range(5):
                assert (await client.get(f"{url}/readyz", timeout=5)).status_code == 200
        _advance(platform, job, log=b"x", phase="Succeeded")
        return await asyncio.gather(*followed)

    assert asyncio.run(tails()) == ["x"] * 60


def test_a_tail_of_an_unknown_job_is_404(ray: JobSubmissionClient) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        asyncio.run(_read(ray.tail_job_logs("nothing")))
    assert refused.value.status == 404


def test_a_tail_without_the_right_token_is_refused(ray: JobSubmissionClient) -> None:
    job = ray.submit_job(entrypoint="true")
    ray._headers = {"Authorization": "Bearer wrong"}
    with pytest.raises(WSServerHandshakeError) as refused:
        asyncio.run(_read(ray.tail_job_logs(job)))
    assert refused.value.status == 403


def test_rays_client_distinguishes_a_wrong_token_from_a_missing_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuthenticationError, match="invalid or incorrect"):
        _client(url, "wrong")
    # Send no token, as a Ray client without one does: this process may have one from a local Ray of an earlier test.
    monkeypatch.setattr(dashboard_sdk, "get_auth_headers_if_auth_enabled", lambda headers: {})
    with pytest.raises(AuthenticationError, match="no authentication token was found"):
        JobSubmissionClient(f"{url}/growth/dev")


def test_a_missing_cluster_is_named_by_the_first_request_that_needs_it(url: str, token: str, folder: Path) -> None:
    client = _client(url, token, "growth/dve")
    with pytest.raises(RuntimeError, match=r"404.*dve.*dev"):
        client.submit_job(entrypoint="true")
    with pytest.raises(RuntimeError, match=r"404.*dve"):
        client.submit_job(entrypoint="true", runtime_env={"working_dir": str(folder)})
    with pytest.raises(RuntimeError, match=r"404.*dve"):
        client.list_jobs()


def test_an_unsupported_submission_is_a_400_with_a_remedy(ray: JobSubmissionClient) -> None:
    with pytest.raises(RuntimeError, match=r"status code 400.*conda.*pip"):
        ray.submit_job(entrypoint="true", runtime_env={"conda": {"dependencies": ["x"]}})
    with pytest.raises(RuntimeError, match=r"status code 400.*s3://"):
        ray.submit_job(entrypoint="true", runtime_env={"working_dir": "s3://bucket/code.zip"})
    with pytest.raises(RuntimeError, match=r"status code 400.*secret"):
        ray.submit_job(entrypoint="true", runtime_env={"env_vars": {"DB_PASSWORD": "x"}})


def test_a_job_of_another_id_does_not_exist(ray: JobSubmissionClient) -> None:
    for ask in (ray.get_job_info, ray.stop_job, ray.delete_job, ray.get_job_logs):
        with pytest.raises(RuntimeError, match=r"404.*nothing"):
            ask("nothing")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/component_activities"),
        ("GET", "/api/serve/applications/"),
        ("PUT", "/api/serve/applications/"),
        ("GET", "/api/cluster_status"),
        ("POST", "/api/job_agent/jobs/"),
        ("PATCH", "/api/jobs/"),
        ("GET", "/api/"),
    ],
)
def test_all_other_paths_of_rays_api_are_refused_as_text(url: str, token: str, method: str, path: str) -> None:
    answer = httpx.request(method, f"{url}/growth/dev{path}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in (405, 501)
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_paths_outside_of_rays_api_are_not_found(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{url}/growth/dev/worker/cpu_profile", headers=headers).status_code == 404
    assert httpx.get(f"{url}/growth/dev/logs", headers=headers).status_code == 404
