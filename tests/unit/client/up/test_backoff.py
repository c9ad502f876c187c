"""The back-off of a child that ends: it grows up to a limit and is reset by a period of health."""

from __future__ import annotations

from rayplane.client.up.backoff import FIRST, LONGEST, STEADY, Backoff


def test_each_end_doubles_the_wait_up_to_the_longest() -> None:
    backoff = Backoff()
    waits = [backoff.ended(now=100.0) - 100.0 for _ in range(9)]
    assert waits == [0.5, 1, 2, 4, 8, 16, LONGEST, LONGEST, LONGEST]
    assert backoff.restarts == 9


def test_steady_health_resets_the_next_wait_to_the_first() -> None:
    backoff = Backoff()
    for _ in range(6):
        backoff.ended(0.0)
    backoff.healthy(10.0)
    backoff.healthy(10.0 + STEADY)
    assert backoff.ended(100.0) == 100.0 + FIRST


def test_health_that_does_not_last_changes_nothing() -> None:
    backoff = Backoff()
    backoff.ended(0.0)
    backoff.healthy(10.0)
    backoff.unhealthy()
    backoff.healthy(10.0 + STEADY)
    assert backoff.ended(100.0) == 101.0


def test_the_count_of_restarts_continues_that_of_an_earlier_supervisor() -> None:
    backoff = Backoff(restarts=3)
    backoff.ended(0.0)
    assert backoff.restarts == 4
