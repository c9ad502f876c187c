"""The number of steps that start at once, and their order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from rayplane.gateway.reconcile import starts
from rayplane.gateway.reconcile.starts import Starts, ranks

WAIT = 20.0


class Steps:
    """Threads that each want a slot, in the order in which they got one."""

    def __init__(self, slots: Starts) -> None:
        self.slots = slots
        self.started: list[str] = []
        self.leaving = threading.Event()
        self._release: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def want(self, step: str, *, rank: int = 0, cores: int | None = 2, host: str = "local") -> None:
        wanted = self._wanted()
        self._release[step] = threading.Event()

        def run() -> None:
            leaving = self.leaving.is_set
            with self.slots.slot(host, cores=cores, rank=rank, leaving=leaving):
                self.started.append(step)
                assert self._release[step].wait(WAIT)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        deadline = time.monotonic() + WAIT
        while cores is not None and self._wanted() == wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _wanted(self) -> int:
        """Number of steps that hold or wait for a slot."""
        return sum(len(starts) for starts in self.slots._hosts.values())

    def end(self, step: str) -> None:
        self._release[step].set()

    def until(self, *started: str) -> None:
        deadline = time.monotonic() + WAIT
        while sorted(self.started) != sorted(started):
            assert time.monotonic() < deadline, self.started
            time.sleep(0.01)

    def close(self) -> None:
        for step in self._release.values():
            step.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def closing(steps: Steps) -> Iterator[Steps]:
    with ExitStack() as stack:
        stack.callback(steps.close)
        yield steps


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_no_more_steps_start_at_once_than_there_are_cores() -> None:
    with closing(Steps(Starts())) as steps:
        steps.want("a")
        steps.want("b")
        steps.until("a", "b")
        steps.want("c")
        time.sleep(0.5)
        assert sorted(steps.started) == ["a", "b"]
        steps.end("a")
        steps.until("a", "b", "c")


def test_the_step_with_the_longest_chain_of_dependents_starts_first() -> None:
    with closing(Steps(Starts())) as steps:
        steps.want("running", cores=1)
        steps.until("running")
        steps.want("airlines", rank=0, cores=1)
        steps.want("flights", rank=6, cores=1)
        steps.want("weather", rank=6, cores=1)
        for step in ("running", "flights", "weather", "airlines"):
            steps.end(step)
        steps.until("running", "flights", "weather", "airlines")
        assert steps.started == ["running", "flights", "weather", "airlines"]


def test_a_long_step_gives_its_slot_to_another() -> None:
    clock = Clock()
    with closing(Steps(Starts(clock=clock))) as steps:
        steps.want("long", cores=1)
        steps.until("long")
        steps.want("next", cores=1)
        time.sleep(0.3)
        assert steps.started == ["long"]
        clock.now += starts.HOLD + 1
        steps.until("long", "next")


def test_without_a_limit_all_start_and_hosts_do_not_wait_for_each_other() -> None:
    with closing(Steps(Starts())) as steps:
        for step in ("a", "b", "c"):
            steps.want(step, cores=None)
        steps.want("d", cores=1)
        steps.want("e", cores=1, host="another")
        steps.until("a", "b", "c", "d", "e")


def test_a_leaving_leader_waits_no_longer() -> None:
    with closing(Steps(Starts())) as steps:
        steps.want("a", cores=1)
        steps.until("a")
        steps.want("b", cores=1)
        steps.leaving.set()
        steps.until("a", "b")


@pytest.mark.parametrize(
    ("needs", "wanted"),
    [
        ({}, {}),
        ({"a": []}, {"a": 0}),
        ({"a": [], "b": ["a"], "c": ["b"], "d": ["a"], "e": []}, {"a": 2, "b": 1, "c": 0, "d": 0, "e": 0}),
    ],
)
def test_a_steps_rank_is_the_length_of_its_longest_chain_of_dependents(
    needs: dict[str, list[str]], wanted: dict[str, int]
) -> None:
    assert ranks(needs) == wanted
