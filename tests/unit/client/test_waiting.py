"""Waits of the SDK, by a clock that only they move."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from rayplane.client.sdk import waiting
from rayplane.errors import Failed, NotFound, Timeout, Unavailable
from rayplane.nouns.base import Metadata, Object
from tests.support.clock import FakeClock


def cluster(phase: str, *, uid: str = "u1", observed: int = 1, generation: int = 1, message: str = "") -> Object:
    metadata = Metadata(name="dev", team="growth", uid=uid, generation=generation)
    status = {"phase": phase, "observed_generation": observed, "message": message}
    return Object(kind="Cluster", metadata=metadata, status=status)


def answers(*results: Object | Exception) -> Callable[[], Object]:
    """Give each result in turn, and the last one again and again."""
    left = list(results)

    def get() -> Object:
        result = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(result, Exception):
            raise result
        return result

    return get


def away() -> Unavailable:
    return Unavailable("The gateway can't be reached.")


def test_a_wait_looks_less_often_the_longer_it_lasts_and_ends_in_time(clock: FakeClock) -> None:
    with pytest.raises(Timeout, match=r"Cluster 'growth/dev' is Starting after 600s: no node yet\."):
        waiting.for_phase(answers(cluster("Starting", message="no node yet.")), None, clock=clock, timeout=600.0)
    assert (clock.sleeps[0], clock.sleeps[-1]) == (0.2, 2.0)
    assert clock.sleeps == sorted(clock.sleeps)
    assert 600 < clock.now() <= 602


def test_a_phase_of_an_earlier_spec_does_not_end_a_wait(clock: FakeClock) -> None:
    stale, current = cluster("Ready", generation=2), cluster("Ready", observed=2, generation=2)
    seen: list[Object] = []
    get = answers(cluster("Failed", generation=2), stale, current)
    assert waiting.for_phase(get, None, clock=clock, timeout=60.0, progress=seen.append) is current
    assert len(seen) == 3


def test_a_failure_ends_a_wait_unless_it_is_waited_for(clock: FakeClock) -> None:
    failed = cluster("Failed", message="the head ended.")
    with pytest.raises(Failed, match=r"Cluster 'growth/dev' failed: the head ended\.$"):
        waiting.for_phase(answers(failed), None, clock=clock, timeout=60.0)
    assert waiting.for_phase(answers(failed), {"Failed"}, clock=clock, timeout=60.0) is failed
    assert clock.sleeps == []


def test_a_wait_gives_up_a_gateway_that_stays_away(clock: FakeClock) -> None:
    with pytest.raises(Unavailable):
        waiting.for_phase(answers(cluster("Starting"), away()), None, clock=clock, timeout=3600.0)
    assert waiting.PATIENCE < clock.now() <= waiting.PATIENCE + 2


def test_a_wait_does_not_wait_for_a_gateway_that_has_never_answered(clock: FakeClock) -> None:
    with pytest.raises(Unavailable):
        waiting.for_phase(answers(away(), cluster("Ready")), None, clock=clock, timeout=3600.0)
    assert clock.sleeps == []


def test_each_answer_begins_the_patience_anew(clock: FakeClock) -> None:
    restart: list[Object | Exception] = [cluster("Starting"), *[away()] * 100]
    get = answers(*restart * 3, cluster("Ready"))
    assert waiting.for_phase(get, None, clock=clock, timeout=3600.0).status["phase"] == "Ready"
    assert clock.now() > 2 * waiting.PATIENCE


def test_a_wait_for_a_deletion_ends_with_the_object_or_with_another_of_its_name(clock: FakeClock) -> None:
    def wait(get: Callable[[], Object], uid: str | None = None) -> int:
        looks = len(clock.sleeps)
        waiting.for_deletion(get, "Cluster 'growth/dev'", uid=uid, clock=clock, timeout=60.0)
        return len(clock.sleeps) - looks

    here, other, gone = cluster("Deleting"), cluster("Pending", uid="u2"), NotFound("There is none.")
    assert wait(answers(here, here, gone)) == 2
    assert wait(answers(here, away(), other)) == 2
    assert wait(answers(other), uid="u1") == 0


def test_a_wait_for_a_deletion_ends_in_time(clock: FakeClock) -> None:
    with pytest.raises(Timeout, match=r"Cluster 'growth/dev' is still there after 60s\."):
        waiting.for_deletion(answers(cluster("Deleting")), "Cluster 'growth/dev'", uid=None, clock=clock, timeout=60.0)
    assert 60 < clock.now() <= 61


def test_the_clock_alone_reads_the_time() -> None:
    def imports_time(path: Path) -> bool:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
        return "time" in [*names, *(node.module for node in nodes if isinstance(node, ast.ImportFrom))]

    modules = list(Path(str(waiting.__file__)).parent.glob("*.py"))
    assert [path.name for path in modules if imports_time(path)] == ["clock.py"]
