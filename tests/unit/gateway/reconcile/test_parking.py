"""Objects that wait for another one: reconciled when any process writes that one, and otherwise left alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplane.gateway import metrics
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.backends.base import ClusterRef
from rayplane.gateway.reconcile import placements
from rayplane.gateway.reconcile.job import JobReconciler
from rayplane.gateway.reconcile.leader import Leader
from rayplane.gateway.reconcile.loop import Loop
from rayplane.gateway.reconcile.parking import Parking, Until
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.store import Store
from rayplane.gateway.store.changes import Changes
from rayplane.gateway.store.database import Database
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import job as jobs
from rayplane.nouns.cluster import ClusterStatus
from rayplane.nouns.job import Attempt, JobStatus
from tests.unit.gateway.reconcile.doubles import TEAM, World
from tests.unit.gateway.reconcile.test_job import Bench


def until(probe: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_write_releases_the_waiters_that_read_an_earlier_version() -> None:
    parking = Parking(Changes(), lambda uid: None)
    parking.park("a", Until("cluster", 7, 60))
    parking.park("b", Until("cluster", 9, 60))
    parking.park("c", Until("other", 1, 60))
    assert parking.release("cluster", 7) == []
    assert parking.release("cluster", 8) == ["a"]
    assert parking.release("cluster") == ["b"]
    assert parking.release("cluster") == []
    assert parking.release("other", 2) == ["c"]


def test_writes_of_this_process_are_reported_as_long_as_an_object_waits() -> None:
    changes, released = Changes(), list[str]()
    parking = Parking(changes, released.append)
    parking.park("a", Until("cluster", 1, 60))
    parking.park("b", Until("cluster", 1, 60))
    changes.tell(["cluster", "other"])
    assert released == ["cluster"]
    parking.leave("a")
    parking.leave("unknown")
    changes.tell(["cluster"])
    assert released == ["cluster"] * 2
    parking.leave("b")
    changes.tell(["cluster"])
    assert released == ["cluster"] * 2


def test_an_object_waits_for_one_other_at_a_time_and_for_none_once_all_is_cleared() -> None:
    changes, released = Changes(), list[str]()
    parking = Parking(changes, released.append)
    parking.park("a", Until("one", 1, 60))
    parking.park("a", Until("two", 1, 60))
    assert parking.release("one") == []
    parking.clear()
    changes.tell(["one", "two"])
    assert (parking.release("two"), released) == ([], [])


class Watched(JobReconciler):
    """Job reconciler that counts the looks at each job and calls ``during`` in the middle of each."""

    def __init__(self, world: World) -> None:
        super().__init__(
            world.platform,
            lambda name: world.backend,
            lambda endpoint: world.ray,  # type: ignore[arg-type, return-value]
            None,
            clock=world.clock,
        )
        self.looks: list[str] = []
        self.during: Callable[[], None] = lambda: None

    def reconcile(self, obj: AnyObject) -> float | Until | None:
        again = super().reconcile(obj)
        self.during()
        self.looks.append(obj.metadata.name)
        return again


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, mlflow_url=None)
    made.team()
    return made


@pytest.fixture
def watched(world: World) -> Watched:
    return Watched(world)


class AtRest:
    """Cluster reconciler that changes nothing: a test sets the clusters' status."""

    kind = "Cluster"

    def reconcile(self, obj: AnyObject) -> None:
        return None


@pytest.fixture
def loop(world: World, watched: Watched) -> Iterator[Loop]:
    made = Loop(world.platform, [AtRest(), watched], Leader(world.store, "one"), interval=0.05)
    yield made
    made.stop()


def write(store: Store, cluster: AnyObject, **status: Any) -> None:
    store.set_status(cluster.metadata.uid, ClusterStatus(**status))


def test_jobs_that_wait_for_their_cluster_are_reconciled_only_when_it_is_written(
    world: World, watched: Watched, loop: Loop
) -> None:
    cluster, other = world.cluster(suspended=True), world.cluster("other")
    names = [world.job(f"j{number}").metadata.name for number in range(5)]
    loop.start()
    until(lambda: sorted(watched.looks) == names)
    write(world.store, other, phase="Starting")
    time.sleep(1.0)
    assert sorted(watched.looks) == names
    write(world.store, cluster, phase="Suspended")
    until(lambda: sorted(watched.looks) == sorted(names * 2))
    time.sleep(0.5)
    assert sorted(watched.looks) == sorted(names * 2), "a write is told of once"


def test_a_waiting_job_that_has_reported_it_takes_no_write_lock(
    world: World, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.cluster(suspended=True)
    job = world.job()
    watched.reconcile(world.get(job))
    condition = world.job_status(job).condition("Scheduled")
    assert condition is not None
    assert condition.reason == "ClusterNotReady"

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it takes the writers' turn")

    monkeypatch.setattr(Database, "transaction", refuse)
    again = watched.reconcile(world.get(job))
    assert isinstance(again, Until)
    assert again.within == placements.AT_REST


def test_the_condition_of_a_waiting_job_follows_its_cluster(world: World, watched: Watched, loop: Loop) -> None:
    cluster = world.cluster()
    job = world.job()
    loop.start()
    until(lambda: watched.looks)
    write(world.store, cluster, phase="Suspended")

    def message() -> str:
        condition = world.job_status(job).condition("Scheduled")
        return "" if condition is None else condition.message

    until(lambda: "rayplane cluster resume dev" in message())


def test_a_write_of_another_process_releases_waiters_too(world: World, watched: Watched, loop: Loop) -> None:
    cluster = world.cluster()
    world.job()
    loop.start()
    until(lambda: watched.looks)
    another = Store(world.settings.store_url)
    write(another, cluster, phase="Starting")
    another.close()
    until(lambda: len(watched.looks) == 2)


def test_a_write_during_a_look_is_not_missed(world: World, watched: Watched, loop: Loop) -> None:
    cluster = world.cluster()
    job = world.job()
    looking, written = threading.Event(), threading.Event()

    def during() -> None:
        looking.set()
        assert written.wait(30)

    watched.during = during
    loop.start()
    assert looking.wait(30)
    write(world.store, cluster, phase="Suspended")
    time.sleep(0.5)  # the loop takes it in while the job is still being looked at
    written.set()
    until(lambda: len(watched.looks) == 2)
    condition = world.job_status(job).condition("Scheduled")
    assert condition is not None
    assert "was suspended by a person" in condition.message


def test_a_waiting_job_that_is_stopped_or_deleted_ends_at_once(world: World, watched: Watched, loop: Loop) -> None:
    world.cluster(suspended=True)
    stopped, deleted = world.job("stopped"), world.job("deleted")
    loop.start()
    until(lambda: len(watched.looks) == 2)
    jobs.stop(TEAM, "stopped", principal=SYSTEM, platform=world.platform)
    world.store.mark_deleted(deleted.metadata.uid)
    loop.wake()
    until(lambda: world.job_status(stopped).phase == "Stopped")
    until(lambda: world.store.count("Job") == 1)


def test_jobs_that_have_ended_are_not_looked_at_again(world: World, watched: Watched, loop: Loop) -> None:
    cluster = world.cluster(suspended=True)
    made = [world.job(f"j{number}") for number in range(5)]
    loop.start()
    until(lambda: len(watched.looks) == 5)
    for job in made:
        jobs.stop(TEAM, job.metadata.name, principal=SYSTEM, platform=world.platform)
    loop.wake()
    until(lambda: world.store.count("Job", TEAM, phases={"Stopped"}) == 5)
    until(lambda: len(watched.looks) == 15)  # one more look each ends them, and one finds that they have ended
    write(world.store, cluster, phase="Suspended")
    time.sleep(1.0)
    assert len(watched.looks) == 15


def test_a_job_whose_next_attempt_waits_is_looked_at_when_its_time_is_over(world: World, watched: Watched) -> None:
    world.cluster(suspended=True)
    job = world.job(timeout="100s", retries=3)
    lost = Attempt(number=1, submission_id="x-1", status="Lost", started_at=world.clock.now, ended_at=world.clock.now)
    status = JobStatus(phase="Pending", attempts=[lost], started_at=world.clock.now)
    world.store.set_status(job.metadata.uid, status)
    world.clock.forward(60)
    again = watched.reconcile(world.get(job))
    assert isinstance(again, Until)
    assert again.within == 40
    world.clock.forward(40.1)
    watched.reconcile(world.get(job))
    assert world.job_status(job).phase == "Failed"


def test_a_job_goes_on_as_soon_as_its_cluster_is_ready(world: World, watched: Watched) -> None:
    cluster = world.cluster()
    job = world.job()
    clusters = world.clusters()
    loop = Loop(world.platform, [watched, clusters], Leader(world.store, "one"), interval=60.0)
    loop.start()
    try:
        until(lambda: world.job_status(job).phase == "Running")
    finally:
        loop.stop()
    assert world.backend.clusters.observe(ClusterRef(TEAM, "dev", cluster.metadata.uid), None).phase == "ready"  # type: ignore[arg-type]


def test_a_gateway_that_leads_no_more_parks_nothing(world: World, watched: Watched, loop: Loop) -> None:
    cluster = world.cluster(suspended=True)
    world.job()
    loop.start()
    until(lambda: watched.looks)
    until(lambda: loop._parking._waits_for)
    loop._leader.leads = lambda: False  # type: ignore[method-assign]
    until(lambda: not loop.leading)
    until(lambda: not loop._parking._waits_for)
    write(world.store, cluster, phase="Suspended")
    time.sleep(0.3)
    assert watched.looks == ["task"]


def test_a_job_that_waits_for_its_next_attempt_reports_a_truncated_log_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayplane.gateway.reconcile.job.LOG_PATIENCE", timedelta(seconds=0))
    bench = Bench(tmp_path)
    job = bench.world.job(retries=1)
    bench.run(job)
    with editing(bench.world.store, job.metadata.uid, JobStatus) as status:
        status.attempts[-1].status, status.attempts[-1].ended_at = "Failed", bench.world.clock.now
    bench.lose_head()
    before = metrics.LOGS_CUT._value.get()
    for _ in range(4):
        bench.look(job)
    status = bench.world.job_status(job)
    assert (status.phase, len(status.attempts)) == ("Pending", 1)
    assert metrics.LOGS_CUT._value.get() == before + 1
    version = bench.world.get(job).metadata.resource_version
    bench.restart()
    bench.look(job, times=3)
    assert bench.world.get(job).metadata.resource_version == version, "it takes no write lock"
