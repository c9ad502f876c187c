"""A real gateway process, local Ray head and MLflow server: clusters and jobs, also when processes are killed."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayplane import processes
from rayplane.client.up import configuration
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.settings import Home, write_secret
from rayplane.storage import layout
from tests.support import noisy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE = 240.0
TEAM, CLUSTER = "alpha", "dev"

TALK = """
import os, time
print("i am", os.environ["RAYPLANE_SUBMISSION_ID"], flush=True)
for second in range(int(os.environ["SECONDS"])):
    print("second", second, flush=True)
    time.sleep(1)
print("bye", flush=True)
"""
TRACKED = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
    print("run", run.info.run_id)
"""


class Platform:
    """A gateway and an MLflow server on a temporary home, each in its own process."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.port, self.mlflow_port = processes.free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self.mlflow_url = f"http://127.0.0.1:{self.mlflow_port}"
        self._password = "password-of-the-admin"
        self._http: httpx.Client | None = None

    def start_mlflow(self) -> None:
        folder = self.home.mlflow
        authentication = configuration.write_mlflow(self.home)
        write_secret(self.home.secrets / "mlflow-admin", f"admin\n{self._password}\n")
        processes.start(
            "mlflow",
            [
                *(sys.executable, "-m", "rayplane.client.up.mlflow_server"),
                *("--host", "127.0.0.1", "--port", str(self.mlflow_port)),
                *("--allowed-hosts", f"127.0.0.1:{self.mlflow_port}", "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--serve-artifacts"),
                *("--default-artifact-root", "mlflow-artifacts:/", "--artifacts-destination", f"file://{folder}/files"),
                *("--enable-workspaces", "--app-name", "basic-auth"),
            ],
            mark=f"{self.home.id}/mlflow",
            log=self.home.logs / "mlflow.log",
            records=self.home.processes,
            env={
                **os.environ,
                "MLFLOW_AUTH_CONFIG_PATH": str(authentication),
                "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
                "MLFLOW_AUTH_ADMIN_PASSWORD": self._password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-for-this-test",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )

    def start_gateway(self) -> processes.ProcessRecord:
        record = processes.start(
            "gateway",
            [sys.executable, "-m", "rayplane.gateway"],
            mark=f"{self.home.id}/gateway",
            log=self.home.logs / "gateway.log",
            records=self.home.processes,
            env={
                **os.environ,
                "RAYPLANE_HOME": str(self.home.path),
                "RAYPLANE_PORT": str(self.port),
                "RAYPLANE_MLFLOW_URL": self.mlflow_url,
                "RAYPLANE_MLFLOW_ADMIN_PATH": str(self.home.secrets / "mlflow-admin"),
            },
            port=self.port,
        )
        until(lambda: self._answers(), "the gateway answers")
        token = self.home.token.read_text().strip()
        self._http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        return record

    def kill_gateway(self) -> None:
        record = processes.load("gateway", self.home.processes)
        assert record is not None
        os.kill(record.pid, signal.SIGKILL)
        os.waitpid(record.pid, 0)

    def call(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        assert self._http is not None
        response = self._http.request(method, f"/v1/teams/{TEAM}{path}", **kwargs)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response

    def get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.call("GET", path).json()
        return answer

    def is_there(self, path: str) -> bool:
        assert self._http is not None
        return self._http.get(f"/v1/teams/{TEAM}{path}").status_code != 404

    def apply(self, path: str, name: str, spec: dict[str, Any]) -> None:
        self.call("PUT", path, json={"metadata": {"name": name}, "spec": spec})

    def upload(self, files: dict[str, str]) -> str:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name), text)
        sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
        self.call("PUT", f"/packages/{sha256}", content=buffer.getvalue())
        return f"sha256:{sha256}"

    def submit(self, **spec: Any) -> str:
        answer = self.call("POST", "/jobs", json={"metadata": {}, "spec": {"cluster": CLUSTER, **spec}}).json()
        return str(answer["metadata"]["name"])

    def phase(self, path: str, *wanted: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            status: dict[str, Any] = self.get(path)["status"]
            return status if status.get("phase") in wanted else None

        what = f"{path} is {' or '.join(wanted)}"
        status: dict[str, Any] = until(reached, what, lambda: self.get(path)["status"])
        return status

    def log(self, job: str) -> str:
        return self.call("GET", f"/jobs/{job}/logs").text

    def kept(self, job: str) -> Path:
        """The file with the job's stored log."""
        uid = self.get(f"/jobs/{job}")["metadata"]["uid"]
        return self.home.storage / layout.job_log(TEAM, uid)

    def mlflow(self) -> MlflowRest:
        return MlflowRest(self.mlflow_url, "admin", self._password)

    def head(self) -> dict[str, Any]:
        uid = self.get(f"/clusters/{CLUSTER}")["metadata"]["uid"]
        return dict(processes.read_json(self.home.processes / "clusters" / f"{uid}.json"))

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).is_success
        except httpx.TransportError:
            return False


def until(
    probe: Callable[[], Any], what: str, state: Callable[[], object] = lambda: "", seconds: float = PATIENCE
) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = probe()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"not after {seconds:g} s: {what}. {state()}")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    made = Platform(tmp_path_factory.mktemp("home"))
    try:
        made.start_mlflow()
        made.start_gateway()
        made.apply("", TEAM, {})
        made.apply(f"/clusters/{CLUSTER}", CLUSTER, {"size": "small"})
        made.phase("", "Ready")
        made.phase(f"/clusters/{CLUSTER}", "Ready")
        yield made
    finally:
        processes.stop_marked(made.home.id, grace=5)


@pytest.fixture(scope="module")
def package(platform: Platform) -> str:
    # All files in one folder, as a team may pack them: by default Ray strips a zip's only top-level folder.
    return platform.upload(
        {"jobs/__init__.py": "", "jobs/talk.py": TALK, "jobs/tracked.py": TRACKED, "jobs/bytes.py": noisy.PROGRAM}
    )


def test_a_job_runs_from_its_package_and_its_log_and_end_are_kept(platform: Platform, package: str) -> None:
    job = platform.submit(entrypoint="python -m jobs.talk", package=package, env={"SECONDS": "2"}, tracked=False)
    status = platform.phase(f"/jobs/{job}", "Succeeded", "Failed")
    assert (status["phase"], status["exit_code"], len(status["attempts"])) == ("Succeeded", 0, 1), status
    text = platform.log(job)
    assert f"i am {status['attempts'][0]['submission_id']}\nsecond 0\nsecond 1\nbye\n" in text
    uid = platform.get(f"/jobs/{job}")["metadata"]["uid"]
    record = platform.home.storage / TEAM / "jobs" / uid / "record.json"
    assert processes.read_json(record)["status"]["phase"] == "Succeeded"  # type: ignore[index]


def test_a_failing_job_is_retried_and_reports_its_exit_code(platform: Platform) -> None:
    job = platform.submit(entrypoint="echo no; exit 3", retries=1, tracked=False)
    status = platform.phase(f"/jobs/{job}", "Succeeded", "Failed")
    assert (status["phase"], status["exit_code"]) == ("Failed", 3)
    assert [a["status"] for a in status["attempts"]] == ["Failed", "Failed"]
    assert "exit code 3" in status["message"]
    text = platform.log(job)
    assert text.count("\nno\n") == 2
    assert f"--- rayplane: attempt 2 ({status['attempts'][1]['submission_id']}) ---\n" in text


def test_a_job_stops_on_request_and_at_its_timeout(platform: Platform) -> None:
    stopped = platform.submit(entrypoint="sleep 300", tracked=False)
    slow = platform.submit(entrypoint="sleep 300", tracked=False, timeout="3s", retries=5)
    platform.phase(f"/jobs/{stopped}", "Running")
    platform.call("POST", f"/jobs/{stopped}/stop")
    assert platform.phase(f"/jobs/{stopped}", "Succeeded", "Failed", "Stopped")["phase"] == "Stopped"
    status = platform.phase(f"/jobs/{slow}", "Succeeded", "Failed", "Stopped")
    assert (status["phase"], len(status["attempts"])) == ("Failed", 1)
    assert "timeout of 3 s" in status["message"]


def test_a_tracked_job_has_one_finished_run_allocated_before_it_starts(platform: Platform, package: str) -> None:
    job = platform.submit(entrypoint="python -m jobs.tracked", package=package, experiment="tracking")
    status = platform.phase(f"/jobs/{job}", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded", platform.log(job)
    assert f"run {status['run_id']}\n" in platform.log(job)
    mlflow = platform.mlflow()
    run = mlflow.get_run(TEAM, status["run_id"])
    assert run is not None
    assert run["info"]["status"] == "FINISHED"
    assert [m["key"] for m in run["data"]["metrics"]] == ["loss"]
    tags = {t["key"]: t["value"] for t in run["data"]["tags"]}
    assert (tags["rayplane.job"], tags["rayplane.team"], tags["rayplane.cluster"]) == (job, TEAM, CLUSTER)
    assert tags["rayplane.submission"] == status["attempts"][-1]["submission_id"]
    assert tags["rayplane.package"] == package
    user, password = (platform.home.secrets / "teams" / f"{TEAM}.mlflow").read_text().split()
    mlflow.ensure_workspace("others", "others")
    as_team = MlflowRest(platform.mlflow_url, user, password)
    assert as_team.get_run(TEAM, status["run_id"]) is not None
    with pytest.raises(Exception, match="403"):
        as_team.ensure_experiment("others", "intrusion")


def test_a_job_goes_on_while_the_gateway_is_killed(platform: Platform, package: str) -> None:
    job = platform.submit(entrypoint="python -m jobs.talk", package=package, env={"SECONDS": "12"}, tracked=False)
    prints = platform.submit(entrypoint="python -m jobs.bytes 0.1", package=package, tracked=False)
    until(lambda: "second 1\n" in platform.log(job), "the job talks")
    until(lambda: platform.kept(prints).stat().st_size > 2**20, "its log is being kept")
    platform.kill_gateway()
    platform.start_gateway()
    status = platform.phase(f"/jobs/{job}", "Succeeded", "Failed")
    assert (status["phase"], len(status["attempts"])) == ("Succeeded", 1)
    text = platform.log(job)
    assert [text.count(f"second {n}\n") for n in range(12)] == [1] * 12, text
    assert platform.phase(f"/jobs/{prints}", "Succeeded", "Failed")["phase"] == "Succeeded"
    noisy.assert_kept(platform.kept(prints).read_bytes())


def test_a_job_whose_head_is_killed_runs_again_and_reports_why(platform: Platform, package: str) -> None:
    job = platform.submit(entrypoint="python -m jobs.talk", package=package, env={"SECONDS": "8"}, tracked=False)
    until(lambda: "second 1\n" in platform.log(job), "the job talks")
    before = platform.get(f"/clusters/{CLUSTER}")["status"]["incarnation"]
    os.kill(platform.head()["pid"], signal.SIGKILL)
    status = platform.phase(f"/jobs/{job}", "Succeeded", "Failed")
    assert [a["status"] for a in status["attempts"]] == ["Lost", "Succeeded"], status
    assert "died while the job ran" in status["attempts"][0]["message"]
    cluster = platform.phase(f"/clusters/{CLUSTER}", "Ready")
    assert cluster["incarnation"] != before
    text = platform.log(job)
    assert text.index("second 1\n") < text.index("--- rayplane: attempt 2") < text.index("bye\n")
    leases = platform.get("/leases")["items"]
    assert [lease["ended_at"] is None for lease in leases] == [False, True]
    assert leases[0]["ended_at"] <= leases[1]["started_at"]


def test_a_deleted_cluster_leaves_nothing_but_the_jobs_records(platform: Platform) -> None:
    head = platform.head()
    finished = platform.submit(entrypoint="echo kept", tracked=False)
    platform.phase(f"/jobs/{finished}", "Succeeded")
    platform.call("DELETE", f"/clusters/{CLUSTER}")
    until(lambda: not platform.is_there(f"/clusters/{CLUSTER}"), "the cluster is gone")
    assert processes.marked(head["mark"]) == []
    assert not Path(head["temp_dir"]).exists()
    assert not Path(head["token_path"]).exists()
    assert list((platform.home.processes / "clusters").glob("*.json")) == []
    assert all(lease["ended_at"] for lease in platform.get("/leases")["items"])
    assert "kept\n" in platform.log(finished)
