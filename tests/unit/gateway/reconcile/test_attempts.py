"""The end of an attempt, and the decision about another one."""

from __future__ import annotations

import pytest

from rayplane.gateway.reconcile.attempts import end_of, message_of, verdict
from rayplane.nouns.job import Attempt


def attempts(*statuses: str) -> list[Attempt]:
    return [Attempt(number=n, submission_id=f"x-{n}", status=s) for n, s in enumerate(statuses, start=1)]


@pytest.mark.parametrize(
    ("ended", "retries", "expected"),
    [
        (("Succeeded",), 0, "Succeeded"),
        (("Failed",), 0, "Failed"),
        (("Failed",), 1, "again"),
        (("Failed", "Failed"), 1, "Failed"),
        (("Failed", "Succeeded"), 1, "Succeeded"),
        (("Lost",), 0, "again"),
        (("Lost", "Lost"), 0, "again"),
        (("Lost", "Lost", "Lost"), 0, "Failed"),
        (("Lost", "Lost", "Lost"), 1, "again"),
        (("Lost", "Failed"), 0, "Failed"),
        (("Lost", "Failed"), 1, "again"),
        (("Stopped",), 5, "Stopped"),
        (("TimedOut",), 5, "Failed"),
    ],
)
def test_failures_of_the_job_use_up_retries_and_two_lost_heads_do_not(
    ended: tuple[str, ...], retries: int, expected: str
) -> None:
    assert verdict(attempts(*ended), retries=retries, may_go_on=True) == expected


def test_no_attempt_follows_a_stop_or_the_deadline() -> None:
    assert verdict(attempts("Failed"), retries=9, may_go_on=False) == "Failed"
    assert verdict(attempts("Succeeded"), retries=9, may_go_on=False) == "Succeeded"


def test_the_reason_is_rays_own_without_the_end_of_the_log() -> None:
    message = "Job entrypoint command failed with exit code 3, last available logs (truncated to 20,000 chars):\nsecret"
    info = {"status": "FAILED", "message": message, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR", "driver_exit_code": 3}
    end = end_of(info, timed_out=False)
    assert end is not None
    assert (end.status, end.message, end.exit_code) == (
        "Failed",
        "Job entrypoint command failed with exit code 3.",
        3,
    )


def test_an_error_of_rays_own_is_named() -> None:
    end = end_of({"status": "FAILED", "message": "no pip", "error_type": "RUNTIME_ENV_SETUP_FAILURE"}, timed_out=False)
    assert end is not None
    assert end.message == "no pip (RUNTIME_ENV_SETUP_FAILURE)"


def test_a_running_job_has_no_end() -> None:
    assert end_of({"status": "RUNNING"}, timed_out=True) is None


def test_a_stop_at_the_deadline_is_a_timeout_and_not_a_stop_on_request() -> None:
    stopped = {"status": "STOPPED"}
    assert [getattr(end_of(stopped, timed_out=t), "status", None) for t in (True, False)] == ["TimedOut", "Stopped"]


def test_the_message_has_the_attempts_number_only_if_there_were_several() -> None:
    one, two = attempts("Failed"), attempts("Failed", "Failed")
    one[-1].message = two[-1].message = "Exit code 3."
    assert (message_of(one), message_of(two)) == ("Exit code 3.", "Exit code 3. (attempt 2 of 2)")
