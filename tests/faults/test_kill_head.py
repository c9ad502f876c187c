"""SIGKILL of a head, or of all processes, in mid-pipeline: it completes with one MLflow run and leaves nothing over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane import processes
from rayplane.nouns.base import Object
from rayplane.nouns.pipeline import RunStatus
from tests.support.local_platform import LocalPlatform, local_platform, until
from tests.support.tracking import mlflow_client

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]

TEAM = "frail"
# The first step is slow enough to be killed; the second is tracked, and logs by step as a training loop does.
SLOW = "import time\nfor i in range(100):\n    print('beat', i, flush=True)\n    time.sleep(0.25)\n"
TRACKED = """
import time
import mlflow
with mlflow.start_run():
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
print("tracked", flush=True)
"""
PIPELINE: dict[str, Any] = {
    "cluster": "dev",
    "steps": {
        "slow": {"entrypoint": "python slow.py"},
        "track": {"entrypoint": "python tracked.py", "needs": ["slow"], "tracked": True},
    },
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """A platform with a team, a cluster and a pipeline; at the end asserts that nothing is left over."""
    code = tmp_path_factory.mktemp("code")
    (code / "slow.py").write_text(SLOW)
    (code / "tracked.py").write_text(TRACKED)
    with local_platform(tmp_path_factory.mktemp("frail") / "home") as made:
        with made.client as api:
            api.teams.apply(TEAM, spec={})
            api.clusters.apply(TEAM, "dev", {})
            package = api.packages.upload(TEAM, Path(code))
            api.pipelines.apply(TEAM, "heart", {**PIPELINE, "package": package})
        yield made


def start(platform: LocalPlatform) -> Object:
    """Start a run and wait until its first step prints."""
    with platform.client as api:
        run = api.pipelines.run(TEAM, "heart", {}, force=True)
        job = f"{run.metadata.name}-slow"

        def beats() -> bool:
            names = {obj.metadata.name for obj in api.jobs.list(TEAM)}
            return job in names and "beat 2" in "".join(api.jobs.logs(TEAM, job, follow=False))

        until(beats, seconds=120, what="the first step beats")
    return run


def finish(platform: LocalPlatform, run: Object) -> RunStatus:
    """Wait for the run's end; assert that it succeeded and that its tracked step has one complete MLflow run."""
    with platform.client as api:
        ended = api.pipelines.wait_run(
            TEAM, "heart", run.metadata.name, phases={"Succeeded", "Failed", "Stopped"}, timeout=240
        )
        status = RunStatus.model_validate(ended.status)
        assert status.phase == "Succeeded", status.message
        tracked = api.jobs.get(TEAM, f"{run.metadata.name}-track").status
    client = mlflow_client(platform, TEAM)
    runs = client.search_runs([tracked["experiment_id"]], f"tags.`rayplane.job` = '{run.metadata.name}-track'")
    assert [mlflow_run.info.run_id for mlflow_run in runs] == [tracked["run_id"]]
    assert runs[0].info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(tracked["run_id"], "loss")] == [0, 1, 2]
    return status


def head(platform: LocalPlatform) -> int:
    """The pid of the cluster's head, as `rayplane status` shows it."""
    return int(platform.process(f"cluster {TEAM}/dev")["pid"])


def test_a_killed_head_in_mid_pipeline_is_replaced_and_the_pipeline_completes(platform: LocalPlatform) -> None:
    run = start(platform)
    os.kill(head(platform), signal.SIGKILL)
    finish(platform, run)
    with platform.client as api:
        attempts = api.jobs.get(TEAM, f"{run.metadata.name}-slow").status["attempts"]
        leases = api.leases(TEAM)
    assert len(attempts) == 2
    assert "head" in attempts[0]["message"].lower()
    leases.sort(key=lambda lease: lease.started_at)
    assert len(leases) == 2
    assert leases[0].ended_at is not None
    assert leases[0].ended_at <= leases[1].started_at
    assert leases[1].ended_at is None


def test_everything_but_the_head_killed_in_mid_pipeline_goes_on_after_up(platform: LocalPlatform) -> None:
    run = start(platform)
    survivor = head(platform)
    for name in ("supervisor", "gateway", "mlflow"):
        os.kill(int(platform.process(name)["pid"]), signal.SIGKILL)
    platform.rayplane("up")
    finish(platform, run)
    assert head(platform) == survivor, "the cluster outlives the gateway"
    with platform.client as api:
        assert len(api.jobs.get(TEAM, f"{run.metadata.name}-slow").status["attempts"]) == 1


def test_everything_killed_in_mid_pipeline_goes_on_after_up(platform: LocalPlatform) -> None:
    run = start(platform)
    for pid in processes.marked(platform.home.id):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not processes.marked(platform.home.id), seconds=15, what="all processes are gone")
    platform.rayplane("up")
    finish(platform, run)
