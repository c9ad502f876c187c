"""The loop: every object gets its turn, none stalls another, errors are told and passed over, one gateway leads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayplane.errors import Failed, NotFound, Unavailable
from rayplane.gateway.reconcile import loop as module
from rayplane.gateway.reconcile.leader import Leader
from rayplane.gateway.reconcile.loop import Loop
from rayplane.nouns.base import Object, Status
from tests.unit.gateway.reconcile.doubles import World


class Recorder:
    """A reconciler of clusters that does what the test says."""

    kind = "Cluster"

    def __init__(self, act: Callable[[Object], float | None] = lambda obj: None) -> None:
        self.act = act
        self.seen: list[str] = []
        self.started = self.stopped = 0

    def reconcile(self, obj: Object) -> float | None:
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


def test_a_settled_object_is_left_alone_until_it_is_written_to(world: World, run: Callable[..., Loop]) -> None:
    cluster = world.cluster()
    recorder = Recorder()
    loop = run(recorder)
    until(lambda: recorder.seen)
    time.sleep(0.4)
    assert recorder.seen == ["dev"]
    world.store.update_spec(cluster.metadata.uid, {**cluster.spec, "suspended": True})
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


def test_a_slow_object_stalls_no_other_and_is_never_looked_at_twice_at_once(
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


def test_an_error_is_recorded_on_the_object_and_taken_back_when_it_is_over(
    world: World, run: Callable[..., Loop]
) -> None:
    cluster = world.cluster()
    broken = [True]

    def act(obj: Object) -> float | None:
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


def test_an_object_that_could_not_be_looked_up_is_not_forgotten(
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

    def act(obj: Object) -> float | None:
        if not asked:
            raise NotFound("Something that it needs is not there.")
        return None

    monkeypatch.setattr(Loop, "_exists", away_once)
    recorder = Recorder(act)
    run(recorder)
    until(lambda: len(recorder.seen) == 2, 5)


def test_errors_in_a_row_are_tried_ever_later(world: World, run: Callable[..., Loop]) -> None:
    world.cluster()

    def act(obj: Object) -> float | None:
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


def test_a_leader_whose_store_is_away_leads_for_no_longer_than_it_was_granted() -> None:
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


def test_a_leader_that_was_overtaken_knows_at_its_next_renewal() -> None:
    now = [0.0]
    store = Away()
    leader = Leader(store, "one", ttl=8, monotonic=lambda: now[0])  # type: ignore[arg-type]
    assert leader.leads()
    store.answer = False
    now[0] = 2.1
    assert not leader.leads()
