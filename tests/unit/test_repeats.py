"""A recurring error is logged in full once, then by its count."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from rayplane.errors import Unavailable
from rayplane.repeats import MOST, Repeats

LOG = logging.getLogger("rayplane.test_repeats")


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repeats(clock: Clock) -> Repeats:
    return Repeats(LOG, clock=clock)


def raised(act: Callable[[], object]) -> Exception:
    try:
        act()
    except Exception as exc:  # noqa: BLE001  any error
        return exc
    raise AssertionError("nothing was raised")


def broken() -> Exception:
    return raised(lambda: {}["lost"])


def fail(repeats: Repeats, times: int, error: Callable[[], Exception] = broken, key: str = "uid-1") -> None:
    for _ in range(times):
        repeats.failed(key, error(), "job %s: an unexpected error", key)


def test_the_traceback_is_logged_only_the_first_time(repeats: Repeats, caplog: pytest.LogCaptureFixture) -> None:
    fail(repeats, 100)
    assert [bool(record.exc_info) for record in caplog.records] == [True] + [False] * 6
    counts = [r.getMessage().split("the same error ")[1].split()[0] for r in caplog.records[1:]]
    assert counts == ["2", "4", "8", "16", "32", "64"]
    assert "since 2023-11-14T22:13:20+00:00: KeyError: 'lost'" in caplog.records[-1].getMessage()


def test_a_recurring_error_is_logged_again_after_ten_minutes(
    repeats: Repeats, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fail(repeats, 64)
    caplog.clear()
    fail(repeats, 1)
    assert not caplog.records
    clock.now += 601
    fail(repeats, 1)
    assert "66 times" in caplog.records[0].getMessage()


def test_another_error_is_logged_in_full(repeats: Repeats, caplog: pytest.LogCaptureFixture) -> None:
    fail(repeats, 3)
    caplog.clear()
    fail(repeats, 1, lambda: raised(lambda: int("no number")))
    assert caplog.records[0].exc_info


def test_errors_that_differ_only_in_numbers_count_as_the_same(
    repeats: Repeats, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(pid: int) -> None:
        raise OSError(f"process {pid} at 0x{pid:x} did not answer")

    for pid in range(1000, 1100):
        repeats.failed("uid-1", raised(lambda pid=pid: refused(pid)), "a look failed")  # type: ignore[misc]
    assert sum(bool(record.exc_info) for record in caplog.records) == 1


def test_errors_that_differ_only_in_long_hexadecimal_words_count_as_the_same(
    repeats: Repeats, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(word: str) -> None:
        raise OSError(f"object {word} is lost")

    for word in ("0123abcd", "fedcba98", "deadbeefdeadbeef", "1e5fa0b7d1c2430c8d9e0f1a2b3c4d5e"):
        repeats.failed("uid-1", raised(lambda word=word: lost(word)), "a look failed")  # type: ignore[misc]
    for word in ("a3bb189e-8bf9-3888-9912-ace4e6543002", "deadbeef-cafe-4bad-abcd-0123456789ab"):
        repeats.failed("uid-1", raised(lambda word=word: lost(word)), "a look failed")  # type: ignore[misc]
    assert sum(bool(record.exc_info) for record in caplog.records) == 1
    repeats.failed("uid-1", raised(lambda: lost("facade")), "a look failed")
    assert sum(bool(record.exc_info) for record in caplog.records) == 2


def test_after_a_recovery_an_error_is_logged_in_full_again(repeats: Repeats, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fail(repeats, 3)
    repeats.works("uid-1")
    assert caplog.records[-1].getMessage() == "uid-1 works again after 3 errors"
    fail(repeats, 1)
    assert caplog.records[-1].exc_info


def test_each_object_has_its_own_count(repeats: Repeats, caplog: pytest.LogCaptureFixture) -> None:
    fail(repeats, 1, key="uid-1")
    fail(repeats, 1, key="uid-2")
    assert all(record.exc_info for record in caplog.records)


def test_an_expected_error_is_a_warning_without_a_traceback(repeats: Repeats, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        repeats.failed("uid-1", Unavailable("MLflow is down."), "%s %s", "Job", "uid-1", traceback=False)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert caplog.records[0].getMessage() == "Job uid-1: MLflow is down."
    assert not any(record.exc_info for record in caplog.records)


def test_the_number_of_remembered_errors_is_bounded(repeats: Repeats) -> None:
    for number in range(MOST + 50):
        fail(repeats, 1, key=f"uid-{number}")
    assert len(repeats._known) == MOST
