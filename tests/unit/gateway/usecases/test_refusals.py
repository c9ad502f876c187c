"""Refused requests: counted together, limited in memory, kept while the store is locked, written at a normal stop."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rayplane.gateway.store import Store
from rayplane.gateway.store import database as database_module
from rayplane.gateway.usecases.refusals import FIRST, LEAST, LONGEST, MOST, OTHERS, Kind, Refusals, Tally
from tests.support import stores

KIND = Kind("10.0.0.7", "", "", "GET", "/v1/teams", 401, "unknown-token")
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(stores.migrate(f"sqlite:///{tmp_path / 'gateway.db'}"))
    yield made
    made.close()


def note(tally: Tally, times: int = 1, kind: Kind = KIND, now: float = 0.0, path: str = "/v1/teams") -> None:
    for _ in range(times):
        tally.note(kind, path, "The token is not known here.", now=now, at=AT + timedelta(seconds=now))


def test_refusals_of_one_kind_are_one_row_with_a_count() -> None:
    tally = Tally()
    note(tally, 999, now=0)
    note(tally, 1, now=4, path="/v1/teams/x")
    assert tally.take(FIRST - 0.1) == []
    (row,) = tally.take(FIRST)
    assert (row.count, row.first, row.last, row.path) == (1000, AT, AT + timedelta(seconds=4), "/v1/teams/x")
    assert tally.take(FIRST + 1) == []


def test_another_address_principal_route_status_or_reason_is_another_row() -> None:
    tally = Tally()
    kinds = [KIND, *(replace(KIND, **{field: "other"}) for field in ("address", "principal", "route", "reason"))]
    kinds.append(replace(KIND, status=403))
    for kind in kinds:
        note(tally, kind=kind)
    assert [row.kind for row in tally.take(FIRST)] == kinds


def test_a_flood_that_lasts_leaves_a_row_every_five_minutes() -> None:
    tally, written = Tally(), 0
    for now in range(3600):
        note(tally, 100, now=now)
        written += len(tally.take(now))
    assert written <= 3600 / LONGEST + 4


def test_a_kind_without_further_refusals_is_forgotten() -> None:
    tally = Tally()
    note(tally)
    tally.take(FIRST)
    assert len(tally) == 1
    assert tally.take(FIRST + LEAST) == []
    assert len(tally) == 0


def test_kinds_beyond_the_maximum_are_counted_together_by_status() -> None:
    tally = Tally()
    for number in range(MOST + 500):
        note(tally, kind=replace(KIND, address=f"10.0.{number // 256}.{number % 256}"))
    note(tally, kind=replace(KIND, address="10.9.9.9", status=403))
    rows = tally.take(FIRST)
    assert len(rows) == MOST + 2
    assert [(r.kind.address, r.kind.status, r.count) for r in rows[-2:]] == [(OTHERS, 401, 500), (OTHERS, 403, 1)]
    assert sum(row.count for row in rows) == MOST + 501


def test_closing_writes_all_remaining_refusals(store: Store) -> None:
    refusals = Refusals(store)
    refusals.start()
    for _ in range(50):
        refusals.note(KIND, "/v1/teams", "The token is not known here.")
    refusals.close()
    (row,) = store.audit_log(None, action="refuse").items
    assert (row["principal"], row["team"], row["kind"], row["name"]) == ("", "", "Request", "/v1/teams")
    assert row["detail"]["count"] == 50
    assert row["detail"]["address"] == "10.0.0.7"


def test_a_refusal_is_written_while_the_gateway_runs(store: Store) -> None:
    refusals = Refusals(store)
    refusals.start()
    refusals.note(KIND, "/v1/teams", "")
    deadline = time.monotonic() + 60
    while not store.audit_log(None, action="refuse").items:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    refusals.close()
    assert len(store.audit_log(None).items) == 1


def test_while_the_store_is_locked_refusals_are_kept_and_noting_them_does_not_block(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_module, "LOCK_SECONDS", 0.2)
    locked = Store(f"sqlite:///{tmp_path / 'gateway.db'}")
    refusals = Refusals(locked)
    other = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        refusals.note(KIND, "/v1/teams", "")
        written: list[bool] = []
        writing = threading.Thread(target=lambda: written.append(refusals.write(all_of_them=True)))
        writing.start()
        refusals.note(KIND, "/v1/teams", "")  # would block here if the writer held the tally's lock
        writing.join(60)
        assert written == [False]
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert "can't be written yet" in caplog.text
    assert refusals.write(all_of_them=True)
    assert [row["detail"]["count"] for row in locked.audit_log(None).items] == [2]
    locked.close()
