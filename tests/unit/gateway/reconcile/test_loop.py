"""The loop: every object is reconciled, none stalls another, errors are recorded, one gateway leads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayplane.errors import Failed, NotFound, Unavailable
from rayplane.gateway.backends.base import Capability, ClusterRef
from rayplane.gateway.reconcile import loop as module
from rayplane.gateway.reconcile.leader import Leader
from rayplane.gateway.reconcile.loop import Loop
from rayplane.gateway.store.objects import Objects
from rayplane.gateway.store.typed import AnyObject
from rayplane.nouns.base import Status
from rayplane.nouns.cluster import ClusterSpec
from tests.unit.gateway.reconcile.doubles import TEAM, World


class Recorder:
    """A reconciler of clusters that does what the test says."""

    kind = "Cluster"

    def __init__(self, act: Callable[[AnyObject], float | None] = lambda obj: None) -> None:
        self.act = act
        self.seen: list[str] = []
        self.started = self.stopped = 0

    def reconcile(self, obj: AnyObject) -> float | None:
        self.seen.append(obj.metadata.name)
        return self.act(obj)

    def start(self) -> None:
        self.started += 1

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.team()
    return made


@pytest.fixture
def run(world: World) -> Iterator[Callable[..., Loop]]:
    loops: list[Loop] = []

    def start(recorder: Recorder, holder: str = "one", ttl: float = 8.0) -> Loop:
        loop = Loop(world.platform, [recorder], Leader(world.store, holder, ttl=ttl), interval=0.05)
        loops.append(loop)
        loop.start()
        return loop

    yield start
    for loop in loops:
        loop.stop()


def until(probe: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_settled_object_is_left_alone_until_it_is_written(world: World, run: Callable[..., Loop]) -> None:
    cluster = world.cluster()
    recorder = Recorder()
    loop = run(recorder)
    until(lambda: recorder.seen)
    time.sleep(0.4)
    assert recorder.seen == ["dev"]
    world.store.update_spec(cluster.metadata.uid, {**cluster.spec_data, "suspended": True})
    loop.wake()
    until(lambda: len(recorder.seen) == 2)
    world.store.mark_deleted(cluster.metadata.uid)
    loop.wake()
    until(lambda: len(recorder.seen) == 3)


def test_an_object_is_looked_at_again_when_its_reconciler_asked_for_it(world: World, run: Callable[..., Loop]) -> None:
    world.cluster()
    recorder = Recorder(lambda obj: 0.05)
    run(recorder)
    until(lambda: len(recorder.seen) >= 5)


def test_a_slow_object_stalls_no_other_and_is_never_reconciled_twice_at_once(
    world: World, run: Callable[..., Loop]
) -> None:
    world.cluster("slow")
    world.cluster("fast")
    release = threading.Event()
    recorder = Recorder(lambda obj: (release.wait(20) and 0.05) if obj.metadata.name == "slow" else 0.05)
    run(recorder)
    until(lambda: recorder.seen.count("fast") >= 3)
    assert recorder.seen.count("slow") == 1
    release.set()
    until(lambda: recorder.seen.count("slow") >= 2)


def test_an_error_is_recorded_on_the_object_and_cleared_after_a_success(world: World, run: Callable[..., Loop]) -> None:
    cluster = world.cluster()
    broken = [True]

    def act(obj: AnyObject) -> float | None:
        if broken[0]:
            raise Failed("It broke.", remedy="Mend it.")
        return 0.05

    run(Recorder(act))

    def told(status: str) -> bool:
        condition = Status.model_validate(world.status(cluster)).condition("Reconciled")
        return condition is not None and condition.status == status

    until(lambda: told("False"))
    condition = Status.model_validate(world.status(cluster)).condition("Reconciled")
    assert condition is not None
    assert (condition.reason, condition.message) == ("Failed", "It broke. Mend it.")
    broken[0] = False
    until(lambda: told("True"))


def test_an_object_that_could_not_be_read_is_not_forgotten(
    world: World, run: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.cluster()
    monkeypatch.setattr(module, "LONGEST_BACKOFF", 0.2)
    exists, asked = Loop._exists, []

    def away_once(loop: Loop, uid: str) -> bool:
        asked.append(uid)
        if len(asked) == 1:
            raise Unavailable("The database does not answer.")
        return exists(loop, uid)

    def act(obj: AnyObject) -> float | None:
        if not asked:
            raise NotFound("Something that it needs is not there.")
        return None

    monkeypatch.setattr(Loop, "_exists", away_once)
    recorder = Recorder(act)
    run(recorder)
    until(lambda: len(recorder.seen) == 2, 5)


def test_repeated_errors_back_off(world: World, run: Callable[..., Loop]) -> None:
    world.cluster()

    def act(obj: AnyObject) -> float | None:
        raise ValueError("not one of ours")

    recorder = Recorder(act)
    run(recorder)
    time.sleep(2.2)
    assert 2 <= len(recorder.seen) <= 4


def test_one_gateway_leads_and_another_takes_over(world: World, run: Callable[..., Loop]) -> None:
    world.cluster()
    first, second = Recorder(lambda obj: 0.05), Recorder(lambda obj: 0.05)
    one = run(first, "one")
    until(lambda: first.seen)
    run(second, "two", ttl=1.0)
    time.sleep(0.3)
    assert second.seen == []
    one.stop()
    until(lambda: second.seen)
    assert (first.started, first.stopped, second.started) == (1, 1, 1)


class Away:
    """A store that does not answer."""

    answer: bool | None = True

    def acquire_leadership(self, holder: str, ttl: float) -> bool:
        if self.answer is None:
            raise Unavailable("The database does not answer.")
        return self.answer


def test_a_leader_whose_store_does_not_answer_leads_only_until_its_time_is_over() -> None:
    now = [0.0]
    store = Away()
    leader = Leader(store, "one", ttl=8, monotonic=lambda: now[0])  # type: ignore[arg-type]
    assert leader.leads()
    store.answer = None
    now[0] = 7.9
    assert leader.leads()
    now[0] = 8.1
    assert not leader.leads()
    store.answer = True
    assert leader.leads()


def test_a_replaced_leader_notices_at_its_next_renewal() -> None:
    now = [0.0]
    store = Away()
    leader = Leader(store, "one", ttl=8, monotonic=lambda: now[0])  # type: ignore[arg-type]
    assert leader.leads()
    store.answer = False
    now[0] = 2.1
    assert not leader.leads()


def test_an_object_that_the_backend_reports_is_looked_at_alone_and_at_once(
    world: World, run: Callable[..., Loop]
) -> None:
    calm, changed = world.cluster("calm"), world.cluster("changed")
    recorder = Recorder()
    loop = run(recorder)
    until(lambda: len(recorder.seen) == 2)
    loop.wake("unknown")
    loop.wake(changed.metadata.uid)
    until(lambda: len(recorder.seen) == 3)
    time.sleep(0.3)
    assert recorder.seen[2:] == ["changed"]
    assert calm.metadata.name in recorder.seen[:2]


def test_a_change_during_a_look_brings_one_more_look(world: World, run: Callable[..., Loop]) -> None:
    cluster = world.cluster()
    release = threading.Event()
    recorder = Recorder(lambda obj: None if release.wait(20) else 0)
    loop = run(recorder)
    until(lambda: recorder.seen)
    for _ in range(3):
        loop.wake(cluster.metadata.uid)
    release.set()
    until(lambda: len(recorder.seen) == 2)
    time.sleep(0.3)
    assert len(recorder.seen) == 2


def test_a_status_that_is_written_brings_no_look_and_costs_no_reading_of_objects(
    world: World, run: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = world.cluster()
    recorder = Recorder()
    loop = run(recorder)
    until(lambda: recorder.seen)
    time.sleep(0.2)
    read: list[str] = []
    monkeypatch.setattr(world.store, "each", lambda kind, *_, **__: read.append(kind))
    monkeypatch.setattr(world.store, "get_by_uid", lambda uid, **_: read.append(uid))
    Objects.set_status(world.store, cluster.metadata.uid, Status(phase="Ready"))
    loop.wake()
    time.sleep(0.4)
    assert (recorder.seen, read) == (["dev"], [])


def test_the_back_off_of_a_failing_object_is_not_cut_short_by_wakes_of_its_own_look(
    world: World, run: Callable[..., Loop]
) -> None:
    world.cluster()
    loops: list[Loop] = []

    def act(obj: AnyObject) -> float | None:
        if loops:
            loops[0].wake(obj.metadata.uid)
        raise Failed("It broke.")

    recorder = Recorder(act)
    loops.append(run(recorder))
    end = time.monotonic() + 2.2
    while time.monotonic() < end:
        loops[0].wake(world.cluster().metadata.uid)
        time.sleep(0.02)
    assert 2 <= len(recorder.seen) <= 4
    looks_before = len(recorder.seen)
    obj = world.store.get("Cluster", TEAM, "dev")
    world.store.update_spec(obj.metadata.uid, {**obj.spec_data, "suspended": True})
    loops[0].wake()
    until(lambda: len(recorder.seen) > looks_before, 1.0)


def test_an_ended_object_is_not_looked_at_until_it_is_deleted(world: World, run: Callable[..., Loop]) -> None:
    world.cluster()
    ended, running = world.job("ended"), world.job("running")
    world.store.set_status(ended.metadata.uid, {"phase": "Succeeded"})
    recorder = Recorder()
    recorder.kind = "Job"
    loop = run(recorder)
    until(lambda: recorder.seen == [running.metadata.name])
    time.sleep(0.2)
    world.store.mark_deleted(ended.metadata.uid)
    loop.wake()
    until(lambda: recorder.seen == ["running", "ended"])


def test_a_gateway_that_leads_again_looks_at_everything_again(world: World, run: Callable[..., Loop]) -> None:
    world.cluster()
    recorder = Recorder()
    loop = run(recorder, ttl=0.4)
    until(lambda: recorder.seen)
    leads = loop._leader.leads
    loop._leader.leads = lambda: False  # type: ignore[method-assign]
    until(lambda: recorder.stopped == 1)
    world.store.remove(world.cluster().metadata.uid)
    world.cluster("another")
    loop._leader.leads = leads  # type: ignore[method-assign]
    until(lambda: recorder.seen == ["dev", "another"])


def test_clusters_at_rest_are_left_alone_if_the_backend_reports_changes(world: World) -> None:
    world.backend.capabilities |= {Capability.WATCH}
    reconciler = world.clusters(wake=lambda uid: loop.wake(uid))
    loop = Loop(world.platform, [reconciler], Leader(world.store, "one"), interval=0.1)
    made = [world.cluster(f"c{n}") for n in range(50)]
    loop.start()
    try:
        until(lambda: world.store.count_by_phase().get(("Cluster", "Ready")) == len(made), 60)
        time.sleep(0.5)
        looks, version = world.backend.observed, world.store.written(None)[1]
        time.sleep(1.0)
        assert (world.backend.observed, world.store.written(None)[1]) == (looks, version)
        ref = ClusterRef(TEAM, "c7", made[7].metadata.uid)
        world.backend.crash(ref)
        until(lambda: world.backend.clusters.observe(ref, ClusterSpec()).phase == "ready", 5)
    finally:
        loop.stop()


def test_a_repeated_unexpected_error_logs_one_traceback(
    world: World, run: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(module, "LONGEST_BACKOFF", 0.02)
    world.cluster()

    def act(obj: AnyObject) -> float | None:
        raise KeyError("lost")

    recorder = Recorder(act)
    run(recorder)
    until(lambda: len(recorder.seen) >= 9, seconds=60)
    records = [record for record in caplog.records if "unexpected error" in record.getMessage()]
    assert [bool(record.exc_info) for record in records[:3]] == [True, False, False]
    assert "the same error 4 times since" in records[2].getMessage()
