"""Tries of what keeps failing begin ever later, and a success lets the next one begin at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rayplane.gateway.reconcile.pace import Pace

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_first_try_begins_at_once_and_later_ones_ever_later() -> None:
    pace, now, waits = Pace(), T0, []
    for _ in range(9):
        waits.append(pace.wait("u1", now))
        now += timedelta(seconds=waits[-1])
        assert pace.wait("u1", now) == 0
        pace.begin("u1", now)
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert pace.wait("u2", now) == 0


def test_a_success_resets_the_count() -> None:
    pace = Pace()
    for _ in range(3):
        pace.begin("u1", T0)
    pace.forget("u1")
    assert (pace.wait("u1", T0), pace.began("u1")) == (0, None)


def test_asking_counts_no_try() -> None:
    pace = Pace()
    assert (pace.wait("u1", T0), pace.began("u1")) == (0, None)
    assert (pace.wait("u1", T0), pace.began("u1")) == (0, None)


def test_a_try_from_before_this_process_is_adopted_once() -> None:
    pace = Pace()
    pace.adopt("u1", T0)
    pace.adopt("u1", T0 + timedelta(seconds=5))
    assert pace.began("u1") == T0
    assert pace.wait("u1", T0) == 1
