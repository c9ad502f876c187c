"""Wait for a state of a backend by asking again, as a reconciler does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rayplane.errors import Unavailable

S = TypeVar("S")


def until(look: Callable[[], S], wanted: Callable[[S], bool], what: str, *, patience: float) -> S:
    """Call ``look`` until its answer is as wanted, and return that answer; retry after Unavailable.

    After ``patience`` seconds, raises AssertionError with ``what`` was awaited and the last answer, or the last
    Unavailable.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            answer = look()
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
        else:
            if wanted(answer):
                return answer
            assert time.monotonic() < deadline, f"not {what} after {patience:g} s, but {answer}"
        time.sleep(0.1)
