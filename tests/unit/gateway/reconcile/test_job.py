"""A job: one MLflow run, attempts that are never submitted twice, a log without gaps, an end that comes last."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import InvalidInput, Unavailable
from rayplane.gateway import metrics
from rayplane.gateway.backends.base import ClusterRef
from rayplane.gateway.reconcile import inbox
from rayplane.gateway.reconcile.job import ENDING, WATCH, JobReconciler
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.store.changes import log_of
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import events
from rayplane.nouns.events import Event
from rayplane.nouns.job import TERMINAL, JobStatus
from rayplane.storage import layout
from tests.unit.gateway.reconcile.doubles import TEAM, RayJob, World


class Bench:
    """A ready cluster and a job reconciler, which a test may replace to simulate a restart of the gateway."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.world.team()
        self.cluster = self.world.cluster()
        self.clusters = self.world.clusters()
        self.jobs = self.reconciler()
        self.clusters.reconcile(self.world.get(self.cluster))
        self.clusters.reconcile(self.world.get(self.cluster))

    def reconciler(self) -> JobReconciler:
        return JobReconciler(
            self.world.platform,
            lambda name: self.world.backend,
            lambda endpoint: self.world.ray,  # type: ignore[arg-type, return-value]
            self.world.mlflow,  # type: ignore[arg-type]
            clock=self.world.clock,
        )

    def restart(self) -> None:
        self.jobs.stop()
        self.jobs = self.reconciler()

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

    def lose_head(self) -> None:
        cluster = self.world.get(self.cluster)
        self.world.backend.crash(ClusterRef(TEAM, "dev", cluster.metadata.uid), "The raylet was killed.")
        self.clusters.reconcile(cluster)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.jobs.stop()


def test_a_job_that_succeeds_keeps_log_record_and_exit_code(bench: Bench) -> None:
    job = bench.world.job()
    ray = bench.run(job)
    ray.log = "hello\n"
    ray.status, ray.exit_code = "SUCCEEDED", 0
    status = bench.end(job)
    assert (status.phase, status.exit_code, len(status.attempts)) == ("Succeeded", 0, 1)
    assert bench.world.log(job) == "hello\n"
    record = json.loads(bench.world.platform.storage.read(layout.job_record(TEAM, job.metadata.uid)))
    assert record["status"]["phase"] == "Succeeded"
    assert ray.request["runtime_env"]["env_vars"]["RAYPLANE_SUBMISSION_ID"] == f"{job.metadata.uid}-1"


def test_a_job_waits_for_its_cluster_and_reports_it(bench: Bench) -> None:
    bench.world.cluster("slow")
    job = bench.world.job(cluster="slow")
    status = bench.look(job)
    scheduled = status.condition("Scheduled")
    assert scheduled is not None
    assert (status.phase, scheduled.reason) == ("Pending", "ClusterNotReady")
    assert bench.world.ray.jobs == {}


def test_the_run_is_allocated_once_before_ray_hears_of_the_job(bench: Bench) -> None:
    job = bench.world.job(tracked=True)
    status = bench.look(job)
    assert status.run_id == "run-1"
    assert bench.world.ray.jobs == {}
    ray = bench.run(job)
    assert ray.request["runtime_env"]["env_vars"]["MLFLOW_RUN_ID"] == "run-1"
    ray.status = "SUCCEEDED"
    bench.end(job)
    assert list(bench.world.mlflow.runs) == ["run-1"]
    assert bench.world.mlflow.runs["run-1"]["status"] == "FINISHED"


def test_a_run_that_a_dead_gateway_created_but_did_not_record_is_found(bench: Bench) -> None:
    job = bench.world.job(tracked=True)
    made = bench.world.mlflow.create_run(
        TEAM, "alpha-jobs", tags={"rayplane.job_uid": job.metadata.uid}, name=job.metadata.name
    )
    assert bench.look(job).run_id == made
    assert len(bench.world.mlflow.runs) == 1


def test_an_attempt_is_submitted_once_though_a_gateway_died_during_the_submission(bench: Bench) -> None:
    job = bench.world.job()
    bench.look(job)
    bench.restart()
    bench.run(job)
    bench.restart()
    bench.run(job)
    assert list(bench.world.ray.jobs) == [f"{job.metadata.uid}-1"]
    assert len(bench.world.job_status(job).attempts) == 1


def test_a_retry_is_a_new_attempt_on_the_same_run_in_the_same_log(bench: Bench) -> None:
    job = bench.world.job(tracked=True, retries=1)
    first = bench.run(job)
    first.log, first.status, first.exit_code, first.message = "one\n", "FAILED", 3, "exit code 3"
    bench.look(job, 3)
    second = bench.run(job)
    second.log, second.status, second.exit_code = "two\n", "SUCCEEDED", 0
    status = bench.end(job)
    assert [a.status for a in status.attempts] == ["Failed", "Succeeded"]
    assert len(bench.world.mlflow.runs) == 1
    assert second.request["runtime_env"]["env_vars"]["MLFLOW_RUN_ID"] == status.run_id
    assert bench.world.log(job) == f"one\n--- rayplane: attempt 2 ({job.metadata.uid}-2) ---\ntwo\n"


def test_a_job_that_keeps_failing_ends_with_its_reason(bench: Bench) -> None:
    job = bench.world.job(tracked=True)
    ray = bench.run(job)
    ray.status, ray.exit_code, ray.message = "FAILED", 3, "Job entrypoint command failed with exit code 3"
    status = bench.end(job)
    assert (status.phase, status.message) == ("Failed", "Job entrypoint command failed with exit code 3.")
    assert bench.world.mlflow.runs["run-1"]["status"] == "FAILED"


def test_a_lost_head_costs_a_job_no_retry_and_the_reason_is_reported(bench: Bench) -> None:
    job = bench.world.job()
    bench.run(job).log = "begun\n"
    time.sleep(0.7)
    bench.lose_head()
    status = bench.look(job)
    assert status.attempts[0].status == "Lost"
    assert "The raylet was killed." in status.attempts[0].message
    for _ in range(5):
        bench.world.clock.forward(5)
        bench.clusters.reconcile(bench.world.get(bench.cluster))
    again = bench.run(job)
    again.status = "SUCCEEDED"
    assert bench.end(job).phase == "Succeeded"
    assert bench.world.log(job).startswith("begun\n")


def test_a_stop_ends_the_job_in_ray_and_its_run_as_killed(bench: Bench) -> None:
    job = bench.world.job(tracked=True, retries=3)
    bench.run(job)
    bench.world.store.update_spec(job.metadata.uid, {**job.spec_data, "stop_requested": True})
    status = bench.end(job)
    assert (status.phase, status.message, len(status.attempts)) == ("Stopped", "Stopped on request.", 1)
    assert bench.world.mlflow.runs["run-1"]["status"] == "KILLED"


def test_a_job_stopped_before_it_began_never_reaches_ray(bench: Bench) -> None:
    job = bench.world.job()
    bench.world.store.update_spec(job.metadata.uid, {**job.spec_data, "stop_requested": True})
    assert bench.end(job).phase == "Stopped"
    assert bench.world.ray.jobs == {}


def test_a_job_past_its_timeout_fails_without_a_retry(bench: Bench) -> None:
    job = bench.world.job(timeout="10m", retries=3)
    bench.run(job)
    bench.world.clock.forward(601)
    status = bench.end(job)
    assert (status.phase, len(status.attempts)) == ("Failed", 1)
    assert "timeout of 600 s" in status.message


def test_a_job_does_not_end_before_its_run_can_be_ended(bench: Bench) -> None:
    job = bench.world.job(tracked=True)
    ray = bench.run(job)
    ray.status = "SUCCEEDED"
    bench.world.mlflow.down = True
    bench.look(job)
    with pytest.raises(Unavailable):
        bench.look(job)
    assert bench.world.job_status(job).phase == "Running"
    bench.world.mlflow.down = False
    assert bench.end(job).phase == "Succeeded"


def test_events_that_were_written_but_not_posted_are_taken_in_before_the_job_ends(bench: Bench) -> None:
    job = bench.world.job()
    ray = bench.run(job)
    event = Event(
        id="e1", type="output.recorded", submission_id=f"{job.metadata.uid}-1", data={"name": "rows", "value": 3}
    )
    folder = f"{layout.job(TEAM, job.metadata.uid)}/{layout.EVENTS}"
    bench.world.platform.storage.write(f"{folder}/e1.json", event.model_dump_json().encode())
    bench.world.platform.storage.write(f"{folder}/bad.json", b'{"type": "no such"}')
    ray.status = "SUCCEEDED"
    status = bench.end(job)
    assert [(o.kind, o.name, o.value) for o in status.outputs] == [("value", "rows", 3)]
    refused = status.condition("EventsIn")
    assert refused is not None
    assert "bad.json" in refused.message


def test_the_log_goes_on_without_a_gap_or_a_repeat_after_a_restart(bench: Bench) -> None:
    job = bench.world.job()
    ray = bench.run(job)
    ray.log = "one ☀\n"
    deadline = time.monotonic() + 5
    while bench.world.log(job) != "one ☀\n" and time.monotonic() < deadline:
        time.sleep(0.05)
    bench.restart()
    ray.log += "two\n"
    bench.run(job)
    ray.status = "SUCCEEDED"
    bench.end(job)
    assert bench.world.log(job) == "one ☀\ntwo\n"


def test_no_log_is_followed_between_two_leaderships(bench: Bench) -> None:
    job = bench.world.job()
    bench.jobs.stop()
    ray = bench.run(job)
    ray.log = "one\n"
    bench.look(job)
    name = f"log-{bench.world.job_status(job).attempts[-1].submission_id[:12]}"
    assert name not in [thread.name for thread in threading.enumerate()]
    bench.jobs.start()
    bench.look(job)
    assert name in [thread.name for thread in threading.enumerate()]
    ray.status = "SUCCEEDED"
    bench.end(job)
    assert bench.world.log(job) == "one\n"


def test_a_deleted_cluster_ends_its_waiting_jobs(bench: Bench) -> None:
    job = bench.world.job()
    bench.world.store.mark_deleted(bench.cluster.metadata.uid)
    status = bench.end(job)
    assert (status.phase, "was deleted" in status.message) == ("Failed", True)


def test_a_deleted_job_is_stopped_and_then_gone(bench: Bench) -> None:
    job = bench.world.job()
    bench.run(job)
    bench.world.store.mark_deleted(job.metadata.uid)
    assert bench.end(job).phase == "Stopped"
    bench.jobs.reconcile(bench.world.get(job))
    assert bench.world.store.count("Job", TEAM) == 0


def test_a_job_that_ray_refuses_fails_with_rays_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise InvalidInput("Ray answered 400: no such field.")

    monkeypatch.setattr(bench.world.ray, "submit", refuse)
    job = bench.world.job()
    assert "no such field" in bench.end(job).message


def test_invalid_events_do_not_keep_a_job_from_ending(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.world.job()
    ray = bench.run(job)
    folder = f"{layout.job(TEAM, job.metadata.uid)}/{layout.EVENTS}"
    storage = bench.world.platform.storage
    storage.write(f"{folder}/old.json/file", b"a folder")
    storage.write(f"{folder}/naive.json", b'{"id": "n", "type": "output.recorded", "time": "2026-01-01T00:00:00"}')
    for number in range(2):
        event = Event(id=f"e{number}", type="output.recorded", data={"name": f"o{number}", "value": 3})
        event.submission_id = f"{job.metadata.uid}-1"
        storage.write(f"{folder}/e{number}.json", event.model_dump_json().encode())
    ingest = events.ingest

    def failing(team: str, batch: list[Event], **more: Any) -> int:
        if any(event.id == "e0" for event in batch):
            raise ZeroDivisionError("a fault of ours")
        return ingest(team, batch, **more)

    monkeypatch.setattr(events, "ingest", failing)
    ray.status = "SUCCEEDED"
    status = bench.end(job)
    assert status.phase == "Succeeded"
    assert [output.name for output in status.outputs] == ["o1"]
    refused = status.condition("EventsIn")
    assert refused is not None
    for said in ("old.json", "naive.json", "e0: ZeroDivisionError"):
        assert said in refused.message


def test_a_job_waits_for_the_rest_of_a_long_log_as_long_as_it_arrives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.world.job()
    ray = bench.run(job)
    ray.log = "line\n" * 10
    coming = [True]

    def log_from(submission_id: str, offset: int) -> Iterator[bytes]:
        while coming[0]:
            yield b"line\n"
            time.sleep(0.02)
        yield b"the traceback\n"

    monkeypatch.setattr(bench.world.ray, "log_from", log_from)
    bench.restart()
    ray.status = "SUCCEEDED"
    bench.look(job)
    bench.look(job)
    submission_id = bench.world.job_status(job).attempts[-1].submission_id
    deadline = time.monotonic() + 30
    while not bench.jobs._logs.comes(submission_id, within=timedelta(seconds=30)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(5):
        bench.look(job)
        bench.world.clock.forward(20)
        time.sleep(0.1)
    assert bench.world.job_status(job).phase == "Running", "it still comes"
    coming[0] = False
    deadline = time.monotonic() + 30
    while bench.look(job).phase == "Running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert bench.world.job_status(job).phase == "Succeeded"
    assert bench.world.log(job).endswith("the traceback\n")


def test_an_attempt_recorded_as_lost_on_a_head_that_is_back_is_stopped_before_the_next(bench: Bench) -> None:
    job = bench.world.job()
    ray = bench.run(job)
    first = bench.world.job_status(job).attempts[0].submission_id
    with editing(bench.world.store, job.metadata.uid, JobStatus) as status:
        status.attempts[0].status, status.attempts[0].ended_at = "Lost", bench.world.clock.now
    bench.run(job)
    assert ray.status == "STOPPED"
    assert bench.world.ray.jobs[first].status == "STOPPED"
    assert bench.world.job_status(job).attempts[1].incarnation == bench.world.job_status(job).attempts[0].incarnation


@pytest.mark.parametrize("odd", ["link", "pipe"])
def test_a_job_ends_though_its_code_replaced_its_log_by_something_else(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.setattr("rayplane.gateway.reconcile.job.LOG_PATIENCE", timedelta(seconds=2))
    job = bench.world.job()
    ray = bench.run(job)
    path = layout.job_log(TEAM, job.metadata.uid)
    bench.world.platform.storage.write(path, b"")
    local = bench.world.platform.storage.local_path(path)
    assert local is not None
    shutil.rmtree(Path(local).parent)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if odd == "link":
        Path(local).parent.symlink_to(elsewhere)
    else:
        Path(local).parent.mkdir()
        os.mkfifo(local)
    ray.log, ray.status = "one\n", "SUCCEEDED"
    bench.look(job)
    deadline = time.monotonic() + 20
    cut = metrics.LOGS_CUT._value.get()
    bench.world.clock.forward(3)
    while (status := bench.look(job)).phase not in TERMINAL and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status.phase == "Succeeded"
    for type_ in ("LogKept", "EventsIn", "RecordKept") if odd == "link" else ("LogKept",):
        condition = status.condition(type_)
        assert condition is not None
        assert (condition.status, odd in condition.message) == ("False", True), condition
    assert list(elsewhere.iterdir()) == []
    assert metrics.LOGS_CUT._value.get() == cut + 1


def test_events_that_are_too_large_together_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOST", 400)
    job = bench.world.job()
    ray = bench.run(job)
    folder = f"{layout.job(TEAM, job.metadata.uid)}/{layout.EVENTS}"
    for number, value in enumerate(("x", "x" * 1000, "y")):
        event = Event(id=f"e{number}", type="output.recorded", data={"name": f"o{number}", "value": value})
        event.submission_id = f"{job.metadata.uid}-1"
        bench.world.platform.storage.write(f"{folder}/e{number}.json", event.model_dump_json().encode())
    ray.status = "SUCCEEDED"
    status = bench.end(job)
    assert [output.name for output in status.outputs] == ["o0", "o2"]
    refused = status.condition("EventsIn")
    assert refused is not None
    assert "e1.json: a job's events have at most" in refused.message


def test_events_that_are_too_large_are_refused_without_being_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, job = bench.world.platform.storage, bench.world.job()
    folder = f"{layout.job(TEAM, job.metadata.uid)}/{layout.EVENTS}"
    for number in range(3):
        storage.write(f"{folder}/e{number}.json", b"")
        os.truncate(storage.local_path(f"{folder}/e{number}.json") or "", inbox.MOST + 1)
    read: list[str] = []
    monkeypatch.setattr(storage, "read_from", lambda path, *_: read.append(path) or b"")
    job_events, refused = inbox.read(storage, TEAM, job.metadata.uid)
    assert (job_events, read, len(refused)) == ([], [], 3)


def test_an_attempt_whose_entrypoint_ended_is_looked_at_often_until_ray_says_so(bench: Bench) -> None:
    woken: list[str] = []
    bench.jobs = JobReconciler(
        bench.world.platform,
        lambda name: bench.world.backend,
        lambda endpoint: bench.world.ray,  # type: ignore[arg-type, return-value]
        bench.world.mlflow,  # type: ignore[arg-type]
        wake=woken.append,
        clock=bench.world.clock,
    )
    job = bench.world.job()
    ray = bench.run(job)
    bench.world.clock.forward(3600)
    assert bench.jobs.reconcile(bench.world.get(job)) == WATCH
    bench.jobs.expect_end(job.metadata.uid)
    assert woken == [job.metadata.uid]
    assert bench.jobs.reconcile(bench.world.get(job)) == ENDING
    ray.status = "SUCCEEDED"
    assert bench.end(job).phase == "Succeeded"


def test_a_young_attempt_is_looked_at_more_often_than_an_old_one(bench: Bench) -> None:
    job = bench.world.job()
    bench.run(job)
    pauses = []
    for _ in range(4):
        pauses.append(bench.jobs.reconcile(bench.world.get(job)))
        bench.world.clock.forward(5)
    assert pauses == sorted(pauses)  # type: ignore[type-var]
    assert pauses[0] == 0.1
    assert pauses[-1] == WATCH


def test_the_first_lines_of_a_log_are_kept_soon_and_wake_waiters(bench: Bench) -> None:
    job = bench.world.job()
    ray = bench.run(job)
    ray.log = "first line\n"
    path = layout.job_log(TEAM, job.metadata.uid)
    storage = bench.world.platform.storage
    deadline = time.monotonic() + 20
    with bench.world.platform.store.changes.watching(log_of(job.metadata.uid)) as watch:
        while not storage.exists(path) or storage.read(path) != b"first line\n":
            assert time.monotonic() < deadline
            watch.wait(1)


def test_a_job_that_ends_does_not_wait_for_the_next_look_at_its_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayplane.gateway.reconcile.logs._SHORTEST", 600.0)
    job = bench.world.job()
    ray = bench.run(job)
    ray.log, ray.status = "all of it\n", "SUCCEEDED"
    assert bench.end(job).phase == "Succeeded"
    assert bench.world.platform.storage.read(layout.job_log(TEAM, job.metadata.uid)) == b"all of it\n"


@pytest.mark.parametrize("users", [True, False])
def test_with_local_users_the_log_is_created_before_the_job_can_create_its_folder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, users: bool
) -> None:
    monkeypatch.setattr(bench.world.settings, "local_users", users)
    job = bench.world.job()
    path, there = layout.job_log(TEAM, job.metadata.uid), []
    submit = bench.world.ray.submit

    def submitted(*arguments: object, **more: object) -> object:
        there.append(bench.world.platform.storage.exists(path))
        return submit(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.world.ray, "submit", submitted)
    ray = bench.run(job)
    assert there == [users]
    ray.log, ray.status = "hello\n", "SUCCEEDED"
    assert bench.end(job).phase == "Succeeded"
    assert bench.world.log(job) == "hello\n"
