"""An informer against a scripted API server: its cache, its callbacks, and when it raises Unavailable."""

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
    """Stand-in for the API: each list and each watch takes the next answer that the test queued."""

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
def changes() -> list[tuple[str | None, str | None]]:
    return []


@pytest.fixture
def informer(script: Script, changes: list[tuple[str | None, str | None]]) -> Iterator[Informer]:
    def record(before: Object | None, after: Object | None) -> None:
        changes.append(tuple(obj and obj["metadata"]["resourceVersion"] for obj in (before, after)))  # type: ignore[arg-type]

    made = Informer(script, POD, on_change=record)  # type: ignore[arg-type]
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


def test_an_informer_lists_once_then_follows_the_watch(script: Script, informer: Informer, changes: list[Any]) -> None:
    script.lists.put(Listing([pod("a", 3), pod("b", 4, "other")], "5"))
    informer.require(5)
    assert [obj["metadata"]["name"] for obj in informer.of(OwnerKey("n", "owner"))] == ["a"]
    script.events.put(Change("MODIFIED", pod("a", 6)))
    script.events.put(Change("ADDED", pod("c", 7)))
    script.events.put(Change("DELETED", pod("b", 8, "other")))
    until(lambda: len(changes) == 5)
    assert changes == [(None, "3"), (None, "4"), ("3", "6"), (None, "7"), ("4", None)]
    assert [obj["metadata"]["name"] for obj in informer.of(OwnerKey("n", "owner"))] == ["a", "c"]
    assert informer.of(OwnerKey("n", "other")) == []
    assert script.watched_from == ["5"]


def test_a_label_in_another_namespace_does_not_confer_ownership(script: Script, informer: Informer) -> None:
    stranger = pod("a", 4)
    stranger["metadata"]["namespace"] = "elsewhere"
    script.lists.put(Listing([pod("a", 3), stranger], "5"))
    informer.require(5)
    assert [obj["metadata"]["namespace"] for obj in informer.of(OwnerKey("n", "owner"))] == ["n"]


def test_a_watch_that_ended_resumes_from_its_last_resource_version(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([], "5"))
    informer.require(5)
    script.events.put(Change("BOOKMARK", {"metadata": {"resourceVersion": "9"}}))
    script.events.put(None)
    until(lambda: len(script.watched_from) == 2)
    script.events.put(Unavailable("it broke off"))
    until(lambda: len(script.watched_from) == 3)
    assert script.watched_from == ["5", "9", "9"]


def test_an_expired_watch_lists_again_and_reports_what_was_deleted_meanwhile(
    script: Script, informer: Informer, changes: list[Any]
) -> None:
    script.lists.put(Listing([pod("a", 3), pod("b", 4)], "5"))
    informer.require(5)
    script.events.put(Expired("too old"))
    script.lists.put(Listing([pod("a", 3), pod("c", 8)], "9"))
    until(lambda: len(script.watched_from) == 2)
    assert changes[2:] == [(None, "8"), ("4", None)]
    assert script.watched_from == ["5", "9"]


def test_an_answer_to_a_write_is_cached_at_once_and_no_older_version_replaces_it(
    script: Script, informer: Informer
) -> None:
    script.lists.put(Listing([pod("a", 3)], "5"))
    informer.require(5)
    informer.learn(pod("a", 7))
    script.events.put(Change("MODIFIED", pod("a", 6)))
    script.events.put(Change("ADDED", pod("b", 8)))
    until(lambda: informer.get("n", "b"))
    cached = informer.get("n", "a")
    assert cached is not None
    assert cached["metadata"]["resourceVersion"] == "7"


def test_a_late_answer_does_not_bring_back_a_deleted_object(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([pod("a", 3)], "5"))
    informer.require(5)
    script.events.put(Change("DELETED", pod("a", 7)))
    until(lambda: informer.get("n", "a") is None)
    informer.learn(pod("a", 6))
    assert informer.get("n", "a") is None
    informer.learn(pod("a", 9))  # another one of that name
    assert informer.get("n", "a") is not None


def test_an_object_counts_as_being_deleted_as_soon_as_its_deletion_is_requested(
    script: Script, informer: Informer
) -> None:
    script.lists.put(Listing([pod("a", 3)], "5"))
    informer.require(5)
    cached = informer.get("n", "a")
    assert cached is not None
    informer.learn_deletion(cached)
    going = informer.get("n", "a")
    assert going is not None
    assert going["metadata"]["deletionTimestamp"]
    assert "deletionTimestamp" not in cached["metadata"], "the caller's object is not modified"


def test_without_news_the_cache_is_relied_on_only_for_its_patience(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([], "5"))
    informer.require(5)
    script.events.put(Unavailable("connection refused"))
    until(lambda: informer._down_since is not None)
    script.events.put(Unavailable("connection refused"))
    informer.require(5)
    time.sleep(0.05)
    with pytest.raises(Unavailable, match="connection refused"):
        informer.require(0.01)


def test_a_missing_right_raises_forbidden(script: Script, informer: Informer) -> None:
    script.lists.put(Forbidden("may not list pods"))
    with pytest.raises(Forbidden, match="may not list pods"):
        informer.require(0.3)


def test_a_watch_restarts_after_an_unexpected_error(script: Script, informer: Informer) -> None:
    script.lists.put(Listing([pod("a", 5)], "5"))
    informer.require(5)
    script.events.put(ZeroDivisionError("a fault of ours, or of a library"))
    script.lists.put(Listing([pod("a", 5), pod("b", 6)], "6"))
    until(lambda: informer.get("n", "b"))
    informer.require(5)


def test_a_refusal_after_a_sync_raises_forbidden_only_if_it_lasts(
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
