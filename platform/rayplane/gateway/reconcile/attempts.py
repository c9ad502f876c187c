"""What a job's attempts come to: how one ended, and whether there is another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayplane.nouns.job import Attempt

FREE_LOSSES = 2
"""Attempts that may be lost with their head without counting as retries: it was no fault of the job's."""
_LONGEST_MESSAGE = 2000

Verdict = Literal["again", "Succeeded", "Failed", "Stopped"]


@dataclass(frozen=True)
class End:
    """How an attempt ended. Status: Succeeded, Failed, Stopped, TimedOut or Lost."""

    status: str
    message: str = ""
    exit_code: int | None = None


def end_of(info: dict[str, Any], *, timed_out: bool) -> End | None:
    """How Ray says that a job ended; None while it has not. ``timed_out``: it was told to stop it for being slow."""
    state = info.get("status")
    exit_code = info.get("driver_exit_code")
    if state == "SUCCEEDED":
        return End("Succeeded", exit_code=exit_code)
    if state == "STOPPED":
        return End("TimedOut" if timed_out else "Stopped", exit_code=exit_code)
    if state == "FAILED":
        return End("Failed", _reason(info), exit_code)
    return None


def verdict(attempts: Sequence[Attempt], *, retries: int, may_go_on: bool) -> Verdict:
    """What follows from attempts of which the last has ended. ``may_go_on`` is False after a stop or the deadline."""
    last = attempts[-1]
    if last.status == "Succeeded":
        return "Succeeded"
    if last.status == "Stopped":
        return "Stopped"
    if last.status == "TimedOut":
        return "Failed"
    failures = sum(a.status == "Failed" for a in attempts)
    losses = sum(a.status == "Lost" for a in attempts)
    if may_go_on and failures + max(0, losses - FREE_LOSSES) <= retries:
        return "again"
    return "Failed"


def message_of(attempts: Sequence[Attempt]) -> str:
    """Why the job failed, and after how many attempts."""
    last = attempts[-1]
    return last.message if len(attempts) == 1 else f"{last.message} (attempt {last.number} of {len(attempts)})"


def _reason(info: dict[str, Any]) -> str:
    # Ray repeats the end of the log in its message; the log is kept by itself.
    # Half of a surrogate pair, which JSON can say, can't be written.
    message = str(info.get("message") or "Ray gives no reason").encode(errors="replace").decode()
    text = message.split(", last available logs", 1)[0].strip()
    error = info.get("error_type")
    if error and error != "JOB_ENTRYPOINT_COMMAND_ERROR":
        text = f"{text} ({error})"
    return text if text.endswith((".", ")")) else f"{text[:_LONGEST_MESSAGE]}."
