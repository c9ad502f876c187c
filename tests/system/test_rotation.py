"""Secrets of a real local platform are rotated while a job runs: the job goes on, old tokens are refused."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayplane.nouns.cluster import ClusterStatus
from rayplane.nouns.job import TERMINAL, JobStatus
from tests.support.local_platform import LocalPlatform, local_platform, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEAM, CLUSTER = "alpha", "dev"
GRACE = 40

JOB = """
import os, pathlib, time
import mlflow, ray
from rayplane.runtime import context, report

ray.init(logging_level="ERROR")

@ray.remote
def ask():
    return context.call("POST", "/v1/run-context", {"submission_id": None})["team"]

print("before", ray.get(ask.remote()), flush=True)
with mlflow.start_run():
    mlflow.log_metric("before", 1)
    while not pathlib.Path(os.environ["GO_ON"]).exists():
        time.sleep(0.2)
    mlflow.log_metric("after", 2)
print("after", ray.get(ask.remote()), flush=True)
report.output("said", "after the rotation")
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    with local_platform(tmp_path_factory.mktemp("rotated") / "home") as made:
        made.client.teams.apply(TEAM, spec={})
        made.client.clusters.apply(TEAM, CLUSTER, {"size": "small"})
        yield made


def asked(platform: LocalPlatform, token: str, path: str = "/v1/teams") -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{platform.state.gateway_url}{path}", headers=headers, timeout=30)


def test_secrets_rotate_while_a_job_runs(platform: LocalPlatform, tmp_path: Path) -> None:
    client, go_on = platform.client, tmp_path / "go-on"
    job = client.jobs.submit(
        TEAM,
        {"cluster": CLUSTER, "entrypoint": f"python -c {shlex.quote(JOB)}", "env": {"GO_ON": str(go_on)}},
    ).metadata.name

    def status() -> JobStatus:
        return JobStatus.model_validate(client.jobs.get(TEAM, job).status)

    def log() -> str:
        return "".join(client.jobs.logs(TEAM, job, follow=False))

    until(lambda: "before alpha" in log() or status().phase in TERMINAL, seconds=240, what="the job runs")
    assert status().phase == "Running", log()
    cluster = client.clusters.get(TEAM, CLUSTER)
    head = ClusterStatus.model_validate(cluster.status).incarnation
    path = platform.home.secrets / "clusters" / f"{cluster.metadata.uid}.rayplane_token_path"
    old_user, old_cluster = platform.home.token.read_text().strip(), path.read_text().strip()

    answer = platform.rayplane("token", "rotate", "-o", "json").stdout
    rotated: list[dict[str, Any]] = json.loads(
        platform.rayplane("secrets", "rotate", "--grace", f"{GRACE}s", "-o", "json").stdout
    )
    new_user = platform.home.token.read_text().strip()
    assert new_user not in answer
    assert [item["secret"] for item in rotated][:2] == ["signing", "metrics"]

    # The user: the new token works at once; the old one is refused with the reason.
    assert asked(platform, new_user).status_code == 200
    until(lambda: asked(platform, old_user).status_code == 401, seconds=60, what="the old token is refused")
    problem = asked(platform, old_user).json()
    assert "was replaced at" in problem["detail"]
    assert str(platform.home.token) in problem["remedy"]

    # The cluster: its file has a new token, and the former one works during its grace.
    until(lambda: path.read_text().strip() != old_cluster, seconds=60, what="the cluster has a new token")
    new_cluster = path.read_text().strip()
    assert asked(platform, new_cluster, "/v1/teams/alpha/jobs").status_code == 200
    until(
        lambda: asked(platform, old_cluster, "/v1/teams/alpha/jobs").status_code == 401,
        seconds=120,
        what="the former token is refused after its grace",
    )
    mlflow_admin = platform.home.secrets / "mlflow-admin"
    until(lambda: not mlflow_admin.with_name("mlflow-admin.next").exists(), seconds=60, what="MLflow's admin is told")
    team_file = platform.home.secrets / "teams" / f"{TEAM}.mlflow"
    until(lambda: team_file.read_text().startswith(f"rayplane-{TEAM}.2\n"), seconds=60, what="another MLflow user")
    former = team_file.with_name(f"{TEAM}.mlflow.former")
    until(lambda: not former.exists(), seconds=120, what="the former MLflow user is gone")

    # The job goes on, uses the new token for requests and events, and logs as the new MLflow user.
    go_on.touch()
    until(lambda: status().phase in TERMINAL, seconds=120, what="the job ends")
    assert status().phase == "Succeeded", log()
    assert "after alpha" in log()
    assert {output.name: output.value for output in status().outputs}["said"] == "after the rotation"
    assert len(status().attempts) == 1
    assert ClusterStatus.model_validate(client.clusters.get(TEAM, CLUSTER).status).incarnation == head

    # The audit log has each rotation and later refusals, but no secret.
    entries = json.loads(platform.rayplane("audit", "--action", "rotate", "-o", "json").stdout)
    expected = {"token", "signing", "metrics", "mlflow-admin", "mlflow-teams", "mlflow-forms"}
    assert {entry["name"] for entry in entries} == expected
    assert len(entries) == len(expected)

    def refused() -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = json.loads(platform.rayplane("audit", "--action", "refuse", "-o", "json").stdout)
        return [entry for entry in shown if entry["detail"]["reason"] == "rotated-token"]

    until(refused, seconds=60, what="the refusals are in the audit log")
    assert {entry["detail"]["address"] for entry in refused()} == {"127.0.0.1"}
    whole = json.dumps(list(platform.client.audit()))
    secrets = (old_user, new_user, old_cluster, new_cluster)
    assert not [secret for secret in secrets if secret in whole]
