"""Put causes into the order in which to fix them, without duplicates. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rayplane.gateway.why.catalogue import GENERAL, index
from rayplane.nouns.why import Cause


def ranked(causes: Iterable[Cause]) -> list[Cause]:
    """Causes of one object in order: certain before likely, the head's before the workers', the more fundamental first.

    The same cause of several pods is merged into one. Causes that only say that the object is not ready yet are left
    out if another says the reason.
    """
    merged: dict[tuple[str, str | None], Cause] = {}
    for cause in causes:
        key = (cause.code, cause.node)
        old = merged.get(key)
        merged[key] = cause if old is None else _merge(old, cause)
    ordered = sorted(merged.values(), key=_order)
    specific = [cause for cause in ordered if cause.code not in GENERAL]
    specific = [cause for cause in specific if not _is_redundant(cause, specific)]
    # A worker waits for its head, so a cause of the head does not exclude one of the workers.
    return specific or ordered


def _is_redundant(cause: Cause, causes: Sequence[Cause]) -> bool:
    """True for an unrecognised refusal if another certain cause concerns the same kind of node."""
    if cause.code != "pod-refused" or cause.node is None:
        return False
    return any(
        other.certainty == "certain" and other.node == cause.node for other in causes if other.code != cause.code
    )


def _order(cause: Cause) -> tuple[bool, bool, int]:
    return (cause.certainty == "likely", cause.node == "worker", index(cause.code))


def _merge(one: Cause, other: Cause) -> Cause:
    known = {(clue.about, clue.reason, clue.message) for clue in one.evidence}
    more = [clue for clue in other.evidence if (clue.about, clue.reason, clue.message) not in known]
    first = one if one.certainty == "certain" or other.certainty == "likely" else other
    return first.model_copy(update={"evidence": [*one.evidence, *more]})
