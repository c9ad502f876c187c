"""SQLite locked by another process: any number of writers waits a bounded time, and readiness reports it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayplane.errors import InvalidInput, NotFound, RayplaneError, Unavailable
from rayplane.gateway.store import Store, database


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store whose writers wait for a second."""
    monkeypatch.setattr(database, "LOCK_SECONDS", 1.0)
    store = Store(f"sqlite:///{tmp_path / 'gateway.db'}")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def other(kept: Store, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of another process."""
    made = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None, check_same_thread=False)
    yield made
    made.close()


def write(store: Store, name: str) -> RayplaneError | None:
    try:
        store.put("Cluster", "growth", name, {}, owner="ada")
    except RayplaneError as exc:
        return exc
    return None


def test_queued_writers_do_not_add_up_their_waits(kept: Store, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with ThreadPoolExecutor(40) as pool:
        refused = list(pool.map(lambda number: write(kept, f"c{number}"), range(40)))
    took = time.monotonic() - began
    other.execute("ROLLBACK")
    assert [type(error) for error in refused] == [Unavailable] * 40
    assert "kept locked by another process" in str(refused[0])
    assert took < 30  # one after the other they would wait for 40 s
    assert write(kept, "after") is None


def test_a_writer_waits_for_a_lock_that_is_released_in_time(
    kept: Store, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 60.0)
    store = Store(str(kept._url))
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, lambda: other.execute("ROLLBACK")).start()
    assert write(store, "dev") is None
    store.close()


def test_a_store_is_writable_unless_another_process_keeps_it_locked(kept: Store, other: sqlite3.Connection) -> None:
    kept.check_writable()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="kept locked by another process"):
        kept.check_writable()
    other.execute("ROLLBACK")
    kept.check_writable()
    assert write(kept, "dev") is None


def test_the_store_is_not_writable_while_a_writer_waits_for_another_process(
    kept: Store, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(database, "LOCK_SECONDS", 60.0)
    store = Store(str(kept._url))
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(write, store, "dev")
        deadline = time.monotonic() + 30
        while store._waits_since is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        with pytest.raises(Unavailable):
            store.check_writable()
        other.execute("ROLLBACK")
        assert waiting.result(60) is None
    store.check_writable()
    store.close()


def test_a_long_transaction_of_this_process_delays_writers_but_the_store_stays_writable(kept: Store) -> None:
    with ThreadPoolExecutor(2) as pool:
        with kept.transaction():
            kept.put("Cluster", "growth", "dev", {}, owner="ada")
            waiting = pool.submit(write, kept, "next")
            time.sleep(1.5)  # longer than a writer waits for another process' lock
            pool.submit(kept.check_writable).result(60)
            kept.check_writable()
        assert waiting.result(60) is None


@pytest.mark.parametrize("act", [Store.get_by_uid, lambda store, text: store.get("Cluster", "growth", text)])
def test_a_text_that_a_database_can_not_store_is_not_found_or_bad_input(
    store: Store, store_url: str, act: Callable[[Store, str], object]
) -> None:
    """Postgres takes no NUL, SQLite does."""
    expected = NotFound if store_url.startswith("sqlite") else InvalidInput
    with pytest.raises(expected, match=r"There is no object|is not there|can't hold a value"):
        act(store, "a\0b")
    assert write(store, "dev") is None
