"""Put causes into the order in which they are to be dealt with, each once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rayplane.gateway.why.catalogue import GENERAL, place
from rayplane.nouns.why import Cause


def ranked(causes: Iterable[Cause]) -> list[Cause]:
    """Causes of one object: what is certain before what is likely, the head's before the workers', the more fundamental
    first. The same cause of several pods is one. What only says that it is not there yet gives way to what says why."""
    merged: dict[tuple[str, str | None], Cause] = {}
    for cause in causes:
        key = (cause.code, cause.node)
        old = merged.get(key)
        merged[key] = cause if old is None else _merge(old, cause)
    found = sorted(merged.values(), key=_order)
    telling = [cause for cause in found if cause.code not in GENERAL]
    telling = [cause for cause in telling if not _is_told_better(cause, telling)]
    # A worker waits for its head: what holds up the head says nothing of the workers, but not the other way round.
    return telling or found


def _is_told_better(cause: Cause, causes: Sequence[Cause]) -> bool:
    """Whether a refusal that no rule knows is of pods of which another cause is as sure."""
    if cause.code != "pod-refused" or cause.node is None:
        return False
    return any(
        other.certainty == "certain" and other.node == cause.node for other in causes if other.code != cause.code
    )


def _order(cause: Cause) -> tuple[bool, bool, int]:
    return (cause.certainty == "likely", cause.node == "worker", place(cause.code))


def _merge(one: Cause, other: Cause) -> Cause:
    seen = {(clue.about, clue.reason, clue.message) for clue in one.evidence}
    more = [clue for clue in other.evidence if (clue.about, clue.reason, clue.message) not in seen]
    first = one if one.certainty == "certain" or other.certainty == "likely" else other
    return first.model_copy(update={"evidence": [*one.evidence, *more]})
