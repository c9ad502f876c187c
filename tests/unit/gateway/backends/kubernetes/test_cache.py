"""An informer against a scripted API server: what it holds, what it tells, and when it can't be relied on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rayplane.errors import Forbidden, Unavailable
from rayplane.gateway.backends.kubernetes import cache
from rayplane.gateway.backends.kubernetes.api import Change, Expired, Listing
from rayplane.gateway.backends.kubernetes.cache import Informer, OwnerKey
from rayplane.gateway.backends.kubernetes.kinds import POD, UID, Object


def pod(name: str, version: int, uid: str = "owner") -> Object:
    return {
        "metadata": {"namespace": "n", "name": name, "uid": name, "resourceVersion": str(version), "labels": {UID: uid}}
    }


class Script:
    """Stands for the API: each list and each watch takes the next thing that the test put there."""

    def __init__(self) -> None:
        self.lists: queue.Queue[Listing | Exception] = queue.Queue()
        self.events: queue.Queue[Change | Exception | None] = queue.Queue()
        self.watched_from: list[str] = []

    def pages(self, kind: Any, **_: Any) -> Iterator[Listing]:
        answer = self.lists.get(timeout=5)
        if isinstance(answer, Exception):
            raise answer
        yield answer

    def watch(self, kind: Any, resource_version: str, **_: Any) -> Iterator[Change]:
        self.watched_from.append(resource_version)
        while True:
            event = self.events.get(timeout=5)
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            yield event


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def told() -> list[tuple[str | None, str | None]]:
    return []


@pytest.fixture
def informer(script: Script, told: list[tuple[str | None, str | None]]) -> Iterator[Informer]:
    def tell(before: Object | None, after: Object | None) -> None:
        told.append(tuple(obj and obj["metadata"]["resourceVersion"] for obj in (before, after)))  # type: ignore[arg-type]

    made = Informer(script, POD, on_change=tell)  # type: ignore[arg-type]
    yield made
    made.stop()
    script.events.put(None)
    script.lists.put(Unavailable("the end"))
    made.close()
    assert threading.active_count() < 20


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_lists_then_follows(script: Script, informer: Informer, told: list[Any]) -> None:
    script.lists.put(Listing([pod("a", 3), pod("b", 4, "other")], "5"))
    informer.require(5)
    assert [obj["metadata"]["name"] for obj in informer.of(OwnerKey("n", "owner"))] == ["a"]
    script.events.put(Change("MODIFIED", pod("a", 6)))
    script.events.put(Change("ADDED", pod("c", 7)))
    script.events.put(Change("DELETED", pod("b", 8, "other")))
    until(lambda: len(told) == 5)
    assert told == [(None, "3"), (None, "4"), ("3", "6"), (None, "7"), ("4", None)]
    assert [obj["metadata"]["name"] for obj in informer.of(OwnerKey("n", "owner"))] == ["a", "c"]
    assert informer.of(OwnerKey("n", "other")) == []
    assert script.watched_from == ["5"]


def test_what_carries_its_label_in_another_namespace_is_not_its(script: Script, informer: Informer) -> None:
    stranger = pod("a", 4)
    stranger["metadata"]["namespace"] = "elsewhere"
    script.lists.put(Listing([pod("a", 3), stranger], "5"))
    informer.require(5)
    assert [obj["metadata"]["namespace"] for obj in informer.of(OwnerKey("n", "owner"))] == ["n"]


def test_a_watch_that_ends_goes_on_from_where_it_was(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([], "5"))
    informer.require(5)
    script.events.put(Change("BOOKMARK", {"metadata": {"resourceVersion": "9"}}))
    script.events.put(None)
    until(lambda: len(script.watched_from) == 2)
    script.events.put(Unavailable("it broke off"))
    until(lambda: len(script.watched_from) == 3)
    assert script.watched_from == ["5", "9", "9"]


def test_a_watch_that_is_too_old_lists_anew_and_tells_what_went_meanwhile(
    script: Script, informer: Informer, told: list[Any]
) -> None:
    script.lists.put(Listing([pod("a", 3), pod("b", 4)], "5"))
    informer.require(5)
    script.events.put(Expired("too old"))
    script.lists.put(Listing([pod("a", 3), pod("c", 8)], "9"))
    until(lambda: len(script.watched_from) == 2)
    assert told[2:] == [(None, "8"), ("4", None)]
    assert script.watched_from == ["5", "9"]


def test_what_was_written_is_known_at_once_and_never_goes_back(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([pod("a", 3)], "5"))
    informer.require(5)
    informer.learn(pod("a", 7))
    script.events.put(Change("MODIFIED", pod("a", 6)))
    script.events.put(Change("ADDED", pod("b", 8)))
    until(lambda: informer.get("n", "b"))
    held = informer.get("n", "a")
    assert held is not None
    assert held["metadata"]["resourceVersion"] == "7"


def test_a_late_answer_does_not_bring_back_what_was_deleted(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([pod("a", 3)], "5"))
    informer.require(5)
    script.events.put(Change("DELETED", pod("a", 7)))
    until(lambda: informer.get("n", "a") is None)
    informer.learn(pod("a", 6))
    assert informer.get("n", "a") is None
    informer.learn(pod("a", 9))  # another one of that name
    assert informer.get("n", "a") is not None


def test_what_is_asked_to_go_counts_as_going_at_once(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([pod("a", 3)], "5"))
    informer.require(5)
    held = informer.get("n", "a")
    assert held is not None
    informer.learn_deletion(held)
    going = informer.get("n", "a")
    assert going is not None
    assert going["metadata"]["deletionTimestamp"]
    assert "deletionTimestamp" not in held["metadata"], "what others hold is not changed"


def test_while_it_hears_nothing_it_is_relied_on_only_for_a_while(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([], "5"))
    informer.require(5)
    script.events.put(Unavailable("connection refused"))
    until(lambda: informer._down_since is not None)
    script.events.put(Unavailable("connection refused"))
    informer.require(5)
    time.sleep(0.05)
    with pytest.raises(Unavailable, match="connection refused"):
        informer.require(0.01)


def test_a_right_that_is_lacking_is_said_as_such(script: Script, informer: Informer) -> None:
    script.lists.put(Forbidden("may not list pods"))
    with pytest.raises(Forbidden, match="may not list pods"):
        informer.require(0.3)


def test_a_watch_goes_on_after_whatever_error(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([pod("a", 5)], "5"))
    informer.require(5)
    script.events.put(ZeroDivisionError("a fault of ours, or of a library"))
    script.lists.put(Listing([pod("a", 5), pod("b", 6)], "6"))
    until(lambda: informer.get("n", "b"))
    informer.require(5)


def test_a_refusal_by_an_api_server_that_comes_back_is_told_as_such_only_if_it_lasts(
    script: Script, informer: Informer, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.lists.put(Listing([pod("a", 5)], "5"))
    informer.require(5)
    script.events.put(Forbidden("may not watch pods"))
    until(lambda: isinstance(informer._error, Forbidden))
    with pytest.raises(Unavailable, match="may not watch pods"):
        informer.require(0)
    monkeypatch.setattr(cache, "_REFUSAL_LASTS", 0.0)
    with pytest.raises(Forbidden):
        informer.require(0)
