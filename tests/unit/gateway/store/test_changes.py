"""A committed write wakes the waiters of its object."""

from __future__ import annotations

import threading
import time

import pytest

from rayplane.gateway.store import Store
from rayplane.gateway.store.changes import Changes


def make(store: Store, name: str) -> str:
    return store.put("Job", "growth", name, {"entrypoint": "x"}, owner="ada")[0].metadata.uid


def _fail_within(store: Store, uid: str) -> None:
    with store.transaction():
        store.set_status(uid, {"phase": "Failed"})
        raise ZeroDivisionError


def test_a_written_status_wakes_only_the_waiters_of_that_object(store: Store) -> None:
    mine, other = make(store, "mine"), make(store, "other")
    with store.changes.watching(mine) as watch:
        store.set_status(other, {"phase": "Running"})
        assert not watch.wait(0)
        store.set_status(mine, {"phase": "Running"})
        assert watch.wait(0)
        assert not watch.wait(0), "a change is reported once"
        store.set_status(mine, {"phase": "Running"})
        assert not watch.wait(0), "nothing changed"


def test_a_transaction_wakes_waiters_after_its_commit_and_never_after_a_rollback(store: Store) -> None:
    uid = make(store, "mine")
    with store.changes.watching(uid) as watch:
        with store.transaction():
            store.set_status(uid, {"phase": "Running"})
            assert not watch.wait(0)
        assert watch.wait(0)
        with pytest.raises(ZeroDivisionError):
            _fail_within(store, uid)
        with store.transaction(commit=False):
            store.set_status(uid, {"phase": "Failed"})
        assert not watch.wait(0)


def test_a_thread_that_waits_is_woken_by_another_threads_write(store: Store) -> None:
    uid = make(store, "mine")
    with store.changes.watching(uid) as watch:
        threading.Timer(0.1, store.set_status, (uid, {"phase": "Running"})).start()
        began = time.monotonic()
        assert watch.wait(60)
        assert time.monotonic() - began < 30


def test_closing_wakes_all_listeners_but_not_those_that_left() -> None:
    changes = Changes()
    calls: list[str] = []
    with changes.listening("a", lambda: calls.append("left")):
        pass
    with changes.listening("a", lambda: calls.append("a")), changes.listening("b", lambda: calls.append("b")):
        changes.tell(["a", "c"])
        changes.close()
    assert calls == ["a", "a", "b"]
    assert changes.closed
