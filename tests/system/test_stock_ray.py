"""Stock Ray without rayplane in its environment as a client: its jobs are submitted and tracked, their logs kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_platform import LocalPlatform
from tests.support.stock_ray import StockRay
from tests.support.tracking import mlflow_client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEAM = "stock"

# Uses nothing of rayplane. With `die`, the first attempt fails half-way.
SCRIPT = '''
"""A training loop as in Ray Train's documentation."""
import os
import sys
import time

import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def loop(config):
    for step in range(config["steps"]):
        time.sleep(0.3)
        ray.train.report({"loss": 1.0 / (step + 1), "step": step})


if __name__ == "__main__":
    storage, marker, die = sys.argv[1], sys.argv[2], sys.argv[3] == "die"
    steps = 6
    if die and not os.path.exists(marker):
        open(marker, "w").close()
        steps = 3
    trainer = DataParallelTrainer(
        loop, train_loop_config={"steps": steps, "rate": 0.1},
        scaling_config=ScalingConfig(num_workers=2), run_config=RunConfig(storage_path=storage),
    )
    trainer.fit()
    print("trained", steps, "steps")
    if steps == 3:
        os._exit(7)
'''


@pytest.fixture(scope="module")
def cluster(platform_up: LocalPlatform) -> LocalPlatform:
    """A team with a cluster that was created, but may not be ready yet."""
    with platform_up.client as api:
        api.teams.apply(TEAM, spec={})
        api.clusters.apply(TEAM, "dev", {})
    return platform_up


@pytest.fixture(scope="module")
def ray(stock_ray: StockRay, cluster: LocalPlatform) -> Callable[..., Any]:
    """Run the stock `ray` command with the printed address of the cluster."""
    return partial(stock_ray.run, cluster, TEAM)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A working folder with the training script."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    return folder


def test_ray_job_submit_uploads_runs_follows_and_is_tracked_once(
    ray: Callable[..., Any], cluster: LocalPlatform, code: Path, tmp_path: Path
) -> None:
    done = ray(
        "job", "submit", "--submission-id", "raysubmit_STOCK1", "--working-dir", str(code), "--",
        "python", "train.py", str(tmp_path / "storage"), str(tmp_path / "marker"), "live",
    )  # fmt: skip
    assert "trained 6 steps" in done.stdout
    assert "succeeded" in done.stdout.lower()
    with cluster.client as api:
        jobs = [j for j in api.jobs.list(TEAM) if j.spec.get("submission_id") == "raysubmit_STOCK1"]
        assert len(jobs) == 1
        status = jobs[0].status
    assert status["phase"] == "Succeeded"
    client = mlflow_client(cluster, TEAM)
    runs = client.search_runs([status["experiment_id"]], f"tags.`rayplane.job_uid` = '{jobs[0].metadata.uid}'")
    assert [r.info.run_id for r in runs] == [status["run_id"]]
    assert runs[0].info.status == "FINISHED"
    # The gateway allocated the run before it submitted the job to Ray.
    started = min(a["started_at"] for a in status["attempts"])
    assert runs[0].info.start_time <= _milliseconds(started)
    assert [m.step for m in client.get_metric_history(status["run_id"], "loss")] == [0, 1, 2, 3, 4, 5]
    assert runs[0].data.params["rate"] == "0.1"


def test_the_job_is_listed_described_and_its_log_read_by_stock_ray(ray: Callable[..., Any]) -> None:
    assert "raysubmit_STOCK1" in ray("job", "list").stdout
    assert "succeeded" in ray("job", "status", "raysubmit_STOCK1").stdout
    assert "trained 6 steps" in ray("job", "logs", "raysubmit_STOCK1").stdout


def test_a_job_is_stopped_by_stock_ray(ray: Callable[..., Any], cluster: LocalPlatform, code: Path) -> None:
    (code / "sleep.py").write_text("import time\nprint('asleep', flush=True)\ntime.sleep(600)\n")
    ray("job", "submit", "--no-wait", "--submission-id", "raysubmit_STOCK2", "--working-dir", str(code), "--",
        "python", "sleep.py")  # fmt: skip
    ray("job", "stop", "raysubmit_STOCK2")
    with cluster.client as api:
        job = next(j for j in api.jobs.list(TEAM) if j.spec.get("submission_id") == "raysubmit_STOCK2")
        assert api.jobs.wait(TEAM, job.metadata.name, timeout=60).status["phase"] == "Stopped"


def test_a_wrong_token_is_refused_and_nothing_is_submitted(
    ray: Callable[..., Any], cluster: LocalPlatform, code: Path, tmp_path: Path
) -> None:
    with cluster.client as api:
        before = len(api.jobs.list(TEAM))
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-token-but-as-long-as-one-would-be")
    wrong.chmod(0o600)
    done = ray("job", "submit", "--working-dir", str(code), "--", "python", "train.py", token=wrong, check=False)
    assert done.returncode != 0
    assert "token" in (done.stdout + done.stderr).lower()
    with cluster.client as api:
        assert len(api.jobs.list(TEAM)) == before


def test_a_second_attempt_resumes_the_run_and_logs_no_step_twice(
    cluster: LocalPlatform, code: Path, tmp_path: Path
) -> None:
    with cluster.client as api:
        job = api.jobs.submit(
            TEAM,
            {
                "entrypoint": f"python train.py {tmp_path / 'storage'} {tmp_path / 'marker'} die",
                "cluster": "dev",
                "package": api.packages.upload(TEAM, code),
                "retries": 1,
            },
        )
        status = api.jobs.wait(TEAM, job.metadata.name, timeout=240).status
        log = "".join(api.jobs.logs(TEAM, job.metadata.name, follow=False))
    assert status["phase"] == "Succeeded", log
    assert [a["number"] for a in status["attempts"]] == [1, 2]
    client = mlflow_client(cluster, TEAM)
    runs = client.search_runs([status["experiment_id"]], f"tags.`rayplane.job_uid` = '{job.metadata.uid}'")
    assert [r.info.run_id for r in runs] == [status["run_id"]]
    assert [m.step for m in client.get_metric_history(status["run_id"], "loss")] == [0, 1, 2, 3, 4, 5]


def test_logs_are_readable_after_the_cluster_is_gone(ray: Callable[..., Any], cluster: LocalPlatform) -> None:
    with cluster.client as api:
        api.clusters.delete(TEAM, "dev")
        deadline = time.monotonic() + 60
        while api.clusters.list(TEAM):
            assert time.monotonic() < deadline, "the cluster is still there"
            time.sleep(0.5)
        job = next(j for j in api.jobs.list(TEAM) if j.spec.get("submission_id") == "raysubmit_STOCK1")
        assert "trained 6 steps" in "".join(api.jobs.logs(TEAM, job.metadata.name, follow=False))
        assert all(lease.ended_at is not None for lease in api.leases(TEAM))
    record = json.loads((cluster.home.storage / TEAM / "jobs" / job.metadata.uid / "record.json").read_text())
    assert record["status"]["phase"] == "Succeeded"


def _milliseconds(instant: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(instant).timestamp() * 1000) + 1
