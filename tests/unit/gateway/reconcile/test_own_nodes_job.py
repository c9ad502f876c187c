"""A job with nodes of its own: made for each attempt, freed once the log is kept, in the ledger for just that time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import InvalidInput, Unavailable, Unsupported
from rayplane.gateway.backends.base import Capability, JobRef
from rayplane.gateway.reconcile.job import JobReconciler
from rayplane.gateway.store.typed import AnyObject
from rayplane.nouns.cluster import Lease
from rayplane.nouns.job import TERMINAL, JobStatus
from rayplane.testing.fake_dedicated import BEGAN, FakeAttempt
from tests.unit.gateway.reconcile.doubles import TEAM, RayJob, World

NODES = {"size": "small", "workers": {"min": 0, "max": 2}}


class Bench:
    """A team without a cluster, and a job reconciler, which a test may replace to simulate a restart of the gateway."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.world.team()
        self.woken: list[str] = []
        self.jobs = self.reconciler()

    def reconciler(self) -> JobReconciler:
        return JobReconciler(
            self.world.platform,
            lambda name: self.world.backend,
            lambda endpoint: self.world.ray,  # type: ignore[arg-type, return-value]
            self.world.mlflow,  # type: ignore[arg-type]
            wake=self.woken.append,
            clock=self.world.clock,
        )

    def restart(self) -> None:
        self.jobs.stop()
        self.jobs = self.reconciler()

    def job(self, **spec: Any) -> AnyObject:
        return self.world.job(**{"cluster": None, "nodes": NODES, **spec})

    def look(self, job: AnyObject, times: int = 1) -> JobStatus:
        for _ in range(times):
            self.jobs.reconcile(self.world.get(job))
        return self.world.job_status(job)

    def run(self, job: AnyObject) -> RayJob:
        """Reconcile until Ray has the job's newest attempt and the job is Running."""
        for _ in range(6):
            status = self.look(job)
            if status.phase == "Running":
                return self.world.ray.jobs[status.attempts[-1].submission_id]
        raise AssertionError(f"not running: {self.world.status(job)}")

    def end(self, job: AnyObject) -> JobStatus:
        for _ in range(10):
            status = self.look(job)
            if status.phase in TERMINAL:
                return status
        raise AssertionError(f"has not ended: {self.world.status(job)}")

    def ref(self, job: AnyObject, attempt: int = 1) -> JobRef:
        return JobRef(TEAM, job.metadata.name, job.metadata.uid, attempt)

    def made(self, job: AnyObject, attempt: int = 1) -> FakeAttempt:
        return self.world.backend.attempts[self.ref(job, attempt)]

    def leases(self) -> list[Lease]:
        return self.world.store.leases(TEAM)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.jobs.stop()


def test_a_job_gets_nodes_runs_on_them_and_gives_them_back(bench: Bench) -> None:
    job = bench.job(entrypoint="python -m jobs.train", metadata={"owner": "me"}, timeout="10m")
    ray = bench.run(job)
    made = bench.made(job)
    assert made.submission.entrypoint == "python -m jobs.train"
    assert made.submission.metadata["owner"] == "me"
    assert made.submission.runtime_env["env_vars"]["RAYPLANE_SUBMISSION_ID"] == f"{job.metadata.uid}-1"
    assert made.submission.timeout == 600
    assert "RAYPLANE_CLUSTER" not in made.launch.env
    assert bench.world.job_status(job).endpoint is not None
    ray.log, ray.status, ray.exit_code = "hello\n", "SUCCEEDED", 0
    status = bench.end(job)
    assert (status.phase, status.exit_code, len(status.attempts), status.endpoint) == ("Succeeded", 0, 1, None)
    assert bench.world.log(job) == "hello\n"
    assert bench.world.backend.attempts == {}
    assert bench.world.backend.asked == ["ensure_job alpha/task-1", "delete_job alpha/task-1"]


def test_a_jobs_nodes_are_in_the_ledger_from_their_start_until_they_are_gone(bench: Bench) -> None:
    job = bench.job()
    ray = bench.run(job)
    (lease,) = bench.leases()
    assert (lease.cluster, lease.cluster_uid) == ("job/task", job.metadata.uid)
    assert (lease.started_at, lease.ended_at) == (BEGAN, None)
    bench.world.backend.slow_to_go = True
    ray.status = "SUCCEEDED"
    bench.world.clock.forward(100)
    bench.look(job, 4)
    assert bench.leases()[0].ended_at is None
    bench.world.clock.forward(20)
    bench.world.backend.become_gone(bench.ref(job))
    bench.end(job)
    (lease,) = bench.leases()
    assert lease.ended_at is not None
    assert (lease.ended_at - BEGAN).total_seconds() == 120


def test_a_job_does_not_end_before_its_nodes_are_gone(bench: Bench) -> None:
    job = bench.job()
    bench.run(job).status = "SUCCEEDED"
    bench.world.backend.slow_to_go = True
    status = bench.look(job, 6)
    assert (status.phase, status.attempts[-1].status) == ("Running", "Succeeded")
    assert bench.world.backend.asked.count("delete_job alpha/task-1") == 1
    bench.world.backend.become_gone(bench.ref(job))
    assert bench.end(job).phase == "Succeeded"


def test_a_jobs_log_is_kept_before_its_nodes_are_deleted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.job()
    ray = bench.run(job)
    ray.log, ray.status = "all of it\n", "SUCCEEDED"
    logs = []
    delete = bench.world.backend.jobs.delete
    monkeypatch.setattr(
        bench.world.backend.jobs, "delete", lambda ref: (logs.append(bench.world.log(job)), delete(ref))
    )
    bench.end(job)
    assert logs == ["all of it\n"]


def test_a_restart_during_the_deletion_of_nodes_does_not_call_the_log_incomplete(bench: Bench) -> None:
    job = bench.job()
    ray = bench.run(job)
    ray.log, ray.status = "all of it\n", "SUCCEEDED"
    bench.world.backend.slow_to_go = True
    bench.look(job, 3)
    bench.restart()
    bench.look(job, 2)
    bench.world.backend.become_gone(bench.ref(job))
    status = bench.end(job)
    condition = status.condition("LogKept")
    assert condition is None or condition.status == "True"
    assert bench.world.log(job) == "all of it\n"


def test_the_run_is_allocated_before_any_node_is_requested(bench: Bench) -> None:
    job = bench.job(tracked=True)
    status = bench.look(job)
    assert status.run_id == "run-1"
    assert bench.world.backend.asked == []
    ray = bench.run(job)
    assert bench.made(job).submission.runtime_env["env_vars"]["MLFLOW_RUN_ID"] == "run-1"
    tags = bench.world.mlflow.runs["run-1"]["tags"]
    assert (tags["rayplane.nodes"], "rayplane.cluster" in tags) == ("small", False)
    ray.status = "SUCCEEDED"
    bench.end(job)
    assert bench.world.mlflow.runs["run-1"]["status"] == "FINISHED"


def test_an_attempt_is_made_once_though_a_gateway_died_while_making_it(bench: Bench) -> None:
    job = bench.job()
    bench.look(job, 2)
    bench.restart()
    bench.run(job)
    assert list(bench.world.backend.attempts) == [bench.ref(job)]
    assert list(bench.world.ray.jobs) == [f"{job.metadata.uid}-1"]


def test_while_its_nodes_start_a_job_reports_what_delays_them(bench: Bench) -> None:
    bench.world.backend.at_once = False
    job = bench.job()
    bench.look(job, 2)
    bench.made(job).reason, bench.made(job).message = "Unschedulable", "0/3 nodes are free."
    status = bench.look(job)
    scheduled = status.condition("Scheduled")
    assert scheduled is not None
    assert (status.phase, scheduled.reason, scheduled.message) == (
        "Starting",
        "Unschedulable",
        "0/3 nodes are free.",
    )
    assert bench.world.ray.jobs == {}


def test_a_retry_gets_new_nodes_after_the_first_ones_are_gone(bench: Bench) -> None:
    job = bench.job(tracked=True, retries=1)
    first = bench.run(job)
    first.log, first.status, first.exit_code, first.message = "one\n", "FAILED", 3, "exit code 3"
    second = None
    for _ in range(8):
        if bench.look(job).phase == "Running" and len(bench.world.job_status(job).attempts) == 2:
            second = bench.world.ray.jobs.get(f"{job.metadata.uid}-2")
    assert second is not None
    second.log, second.status, second.exit_code = "two\n", "SUCCEEDED", 0
    status = bench.end(job)
    assert [a.status for a in status.attempts] == ["Failed", "Succeeded"]
    assert bench.world.log(job) == f"one\n--- rayplane: attempt 2 ({job.metadata.uid}-2) ---\ntwo\n"
    asked = [f"{call} alpha/task-{n}" for n in (1, 2) for call in ("ensure_job", "delete_job")]
    assert bench.world.backend.asked == asked
    assert len(bench.world.mlflow.runs) == 1
    assert len(bench.leases()) == 2


def test_an_attempt_whose_head_died_is_lost_and_another_is_made(bench: Bench) -> None:
    job = bench.job()
    bench.run(job)
    bench.made(job).phase, bench.made(job).message = "lost", "OOMKilled."
    status = bench.look(job)
    assert status.attempts[0].status == "Lost"
    assert "OOMKilled." in status.attempts[0].message
    for _ in range(6):
        status = bench.look(job)
    assert (len(status.attempts), status.phase) == (2, "Running")
    assert bench.ref(job, 1) not in bench.world.backend.attempts
    bench.world.ray.jobs[f"{job.metadata.uid}-2"].status = "SUCCEEDED"
    assert bench.end(job).phase == "Succeeded"


def test_an_attempt_whose_nodes_were_deleted_from_outside_is_lost(bench: Bench) -> None:
    job = bench.job()
    bench.run(job)
    bench.world.backend.become_gone(bench.ref(job))
    status = bench.look(job)
    assert status.attempts[0].status == "Lost"
    assert "taken away" in status.attempts[0].message


def test_a_new_head_is_not_mistaken_for_the_one_that_ran_the_job(bench: Bench) -> None:
    job = bench.job()
    bench.run(job)
    bench.made(job).number += 1
    assert bench.look(job).attempts[0].status == "Lost"


def test_the_backends_account_of_the_end_counts_once_the_head_is_silent(bench: Bench) -> None:
    job = bench.job()
    bench.run(job)
    bench.made(job).phase, bench.made(job).message = "failed", "Job entrypoint command failed with exit code 3"
    bench.world.ray.down = True
    status = bench.look(job)
    assert (status.attempts[0].status, status.attempts[0].message) == (
        "Failed",
        "Job entrypoint command failed with exit code 3",
    )


def test_a_silent_head_of_a_running_job_is_asked_again(bench: Bench) -> None:
    job = bench.job()
    bench.run(job)
    bench.world.ray.down = True
    with pytest.raises(Unavailable):
        bench.look(job)
    assert bench.world.job_status(job).phase == "Running"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_stop_frees_the_nodes_whether_or_not_the_job_runs_yet(bench: Bench, at_once: bool) -> None:
    bench.world.backend.at_once = at_once
    job = bench.job(tracked=True, retries=3)
    bench.look(job, 4)
    bench.world.store.update_spec(job.metadata.uid, {**job.spec_data, "stop_requested": True})
    status = bench.end(job)
    assert (status.phase, status.message, len(status.attempts)) == ("Stopped", "Stopped on request.", 1)
    assert bench.world.backend.attempts == {}
    assert bench.world.mlflow.runs["run-1"]["status"] == "KILLED"
    assert status.condition("LogKept") is None


def test_a_job_past_its_timeout_fails_and_its_nodes_are_freed(bench: Bench) -> None:
    job = bench.job(timeout="10m", retries=3)
    bench.run(job)
    bench.world.clock.forward(601)
    status = bench.end(job)
    assert (status.phase, len(status.attempts), bench.world.backend.attempts) == ("Failed", 1, {})
    assert "timeout of 600 s" in status.message


def test_a_retry_has_the_rest_of_the_timeout(bench: Bench) -> None:
    job = bench.job(timeout="10m", retries=1)
    first = bench.run(job)
    bench.world.clock.forward(400)
    first.status = "FAILED"
    for _ in range(8):
        bench.look(job)
    assert bench.made(job, 2).submission.timeout == 200


def test_a_deleted_job_gives_its_nodes_back_and_is_gone(bench: Bench) -> None:
    job = bench.job()
    bench.run(job)
    bench.world.store.mark_deleted(job.metadata.uid)
    assert bench.end(job).phase == "Stopped"
    bench.jobs.reconcile(bench.world.get(job))
    assert bench.world.store.count("Job", TEAM) == 0
    assert bench.world.backend.attempts == {}


def test_a_job_that_the_backend_refuses_fails_with_its_message(bench: Bench) -> None:
    bench.world.backend.refused = "spec.entrypoint: no such field."
    job = bench.job()
    assert "no such field" in bench.end(job).message
    assert bench.leases() == []


def test_a_job_that_ray_refuses_fails_with_rays_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise InvalidInput("Ray answered 400: bad runtime_env.")

    monkeypatch.setattr(bench.world.ray, "submit", refuse)
    job = bench.job()
    assert "bad runtime_env" in bench.end(job).message
    assert bench.world.backend.attempts == {}


@pytest.mark.parametrize(("places", "woken"), [({"local": "Its namespace is being made."}, 0), ({}, 1)])
def test_a_job_waits_for_its_teams_place_and_has_a_missing_one_made(
    bench: Bench, places: dict[str, str], woken: int
) -> None:
    bench.world.backend.capabilities = frozenset(Capability)
    job = bench.job()
    team = bench.world.store.get("Team", "", TEAM)
    bench.world.store.set_status(team.metadata.uid, {**team.status_data, "places": places})
    status = bench.look(job)
    scheduled = status.condition("Scheduled")
    assert scheduled is not None
    assert (status.phase, scheduled.reason) == ("Pending", "TeamNotReady")
    assert scheduled.message == " ".join(["Team 'alpha' is being onboarded.", *places.values()])
    assert bench.woken == [team.metadata.uid] * woken
    assert bench.world.backend.asked == []


def test_a_job_whose_backend_lost_its_port_to_jobs_is_refused_with_the_remedy(bench: Bench) -> None:
    job = bench.job()
    bench.run(job)
    bench.world.backend.capabilities -= {Capability.JOB}
    with pytest.raises(Unsupported, match="The backend 'local' has no nodes for job 'alpha/task' alone") as refusal:
        bench.look(job)
    assert refusal.value.remedy == "Name a cluster of the team: job.cluster."
