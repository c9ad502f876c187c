"""Judge a job's attempts: read the end of one from Ray, and decide whether another follows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayplane.nouns.job import Attempt

FREE_LOSSES = 2
"""Attempts that may be lost with their head without counting as retries: the job was not at fault."""
_LONGEST_MESSAGE = 2000

Verdict = Literal["again", "Succeeded", "Failed", "Stopped"]


@dataclass(frozen=True)
class End:
    """The end of an attempt. Status: Succeeded, Failed, Stopped, TimedOut or Lost."""

    status: str
    message: str = ""
    exit_code: int | None = None


def end_of(info: dict[str, Any], *, timed_out: bool) -> End | None:
    """The end of a job according to Ray; None while it runs. ``timed_out``: the platform stopped it at its timeout."""
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
    """Decide what follows the end of the last attempt. ``may_go_on`` is False after a stop or the deadline."""
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
    """The reason why the job failed, with the number of attempts if there were several."""
    last = attempts[-1]
    return last.message if len(attempts) == 1 else f"{last.message} (attempt {last.number} of {len(attempts)})"


def _reason(info: dict[str, Any]) -> str:
    # Ray repeats the end of the log in its message; the platform keeps the log separately.
    # A lone surrogate, which JSON can express, can't be written as UTF-8.
    message = str(info.get("message") or "Ray gives no reason").encode(errors="replace").decode()
    text = message.split(", last available logs", 1)[0].strip()
    error = info.get("error_type")
    if error and error != "JOB_ENTRYPOINT_COMMAND_ERROR":
        text = f"{text} ({error})"
    return text if text.endswith((".", ")")) else f"{text[:_LONGEST_MESSAGE]}."
