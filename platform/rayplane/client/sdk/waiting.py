"""Wait for objects: one loop, for a phase or for an end, that outlasts a restart of the gateway.

Looks by a function and takes its time from a clock, so that it is tested without either.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from rayplane import errors
from rayplane.client.sdk.clock import Clock
from rayplane.nouns.base import Object
from rayplane.nouns.job import TERMINAL

PATIENCE = 120.0
"""Seconds that a gateway which has answered before may be unreachable, while it restarts, before a wait gives up."""
_SETTLED: dict[str, frozenset[str]] = {
    "Cluster": frozenset({"Ready", "Suspended"}),
    "Job": TERMINAL,
    "PipelineRun": TERMINAL,
}
Progress = Callable[[Object], None]
T = TypeVar("T")


def until(
    look: Callable[[], T],
    ended: Callable[[T], bool],
    *,
    clock: Clock,
    timeout: float,
    late: Callable[[T], errors.Timeout],
    pause: Callable[[float], float] = lambda _: 0.5,
) -> T:
    """Look again and again until the wait has ``ended``, and return the last look's result.

    Raises ``late`` of it after ``timeout`` seconds, and all that ``ended`` raises. ``pause`` is the time until the next
    look, by the seconds for which the wait has lasted.
    """
    began = clock.now()
    deadline = began + timeout
    look = patient(look, clock, deadline=deadline)
    while True:
        result = look()
        if ended(result):
            return result
        if clock.now() > deadline:
            raise late(result)
        clock.sleep(pause(clock.now() - began))


def patient(
    ask: Callable[[], T], clock: Clock, *, patience: float | None = None, deadline: float = float("inf")
) -> Callable[[], T]:
    """Wrap ``ask`` so that, after one success, it waits for an unreachable gateway.

    It waits for ``patience`` seconds (default: PATIENCE), and not beyond ``deadline``. The first call does not wait, so
    that a user learns at once if no gateway runs.
    """
    longest = PATIENCE if patience is None else patience
    last_answer: float | None = None

    def ask_patiently() -> T:
        nonlocal last_answer
        while True:
            try:
                answer = ask()
            except errors.Unavailable:
                now = clock.now()
                if last_answer is None or now - last_answer > longest or now > deadline:
                    raise
                clock.sleep(1.0)
                continue
            last_answer = clock.now()
            return answer

    return ask_patiently


def for_phase(
    get: Callable[[], Object],
    phases: Collection[str] | None,
    *,
    clock: Clock,
    timeout: float,
    progress: Progress | None = None,
) -> Object:
    """Wait until the object is in one of ``phases`` (default: the settled ones of its kind) for its present spec.

    Raises Failed if it fails instead, Timeout after ``timeout`` seconds. ``progress`` is called at each look.
    """

    def ended(obj: Object) -> bool:
        if progress is not None:
            progress(obj)
        return _is_settled(obj, phases)

    def late(obj: Object) -> errors.Timeout:
        reason = f": {why(obj)}" if why(obj) else ""
        return errors.Timeout(
            f"{_name_of(obj)} is {_phase(obj)} after {timeout:g}s{reason}.", remedy="Wait on, or delete it."
        )

    def pause(lasted: float) -> float:
        # Poll less often the longer the wait, so that the delay stays a small part of it.
        return min(max(lasted / 40, 0.2), 2.0)

    return until(get, ended, clock=clock, timeout=timeout, late=late, pause=pause)


def for_deletion(get: Callable[[], Object], name: str, *, uid: str | None, clock: Clock, timeout: float) -> None:
    """Wait until the object is gone, or another one has its name; by default the object first seen is meant.

    Raises Timeout after ``timeout`` seconds, with the ``name`` that the caller gives it.
    """

    def current_uid() -> str | None:
        try:
            return get().metadata.uid
        except errors.NotFound:
            return None

    def ended(current: str | None) -> bool:
        nonlocal uid
        uid = uid or current
        return current is None or current != uid

    def late(_: str | None) -> errors.Timeout:
        return errors.Timeout(f"{name} is still there after {timeout:g}s.", remedy="Wait on.")

    until(current_uid, ended, clock=clock, timeout=timeout, late=late)


def why(obj: Object) -> str:
    """The reason for an object's state, without a final full stop: its message, or its first false condition's."""
    text = str(obj.status.get("message") or "")
    if not text:
        false = (c for c in obj.status.get("conditions", []) if c.get("status") != "True" and c.get("message"))
        text = next((str(c["message"]) for c in false), "")
    return text.rstrip(".")


def _is_settled(obj: Object, phases: Collection[str] | None) -> bool:
    """True if the object is in a wanted phase for its present spec; raises Failed if it failed instead."""
    phase, wanted = _phase(obj), phases or _SETTLED.get(obj.kind, frozenset({"Ready"}))
    is_observed = int(obj.status.get("observed_generation", 0)) >= obj.metadata.generation
    if phase in wanted and (is_observed or phase in TERMINAL):
        return True
    if phase == "Failed" and is_observed:
        raise errors.Failed(f"{_name_of(obj)} failed: {why(obj) or 'no reason was given'}.")
    return False


def _phase(obj: Object) -> str:
    return str(obj.status.get("phase", "Pending"))


def _name_of(obj: Object) -> str:
    team, name = obj.metadata.team, obj.metadata.name
    return f"{obj.kind} '{team}/{name}'" if team else f"{obj.kind} '{name}'"
