"""Wait for what a backend is to see or to have done, as a reconciler does: by asking again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rayplane.errors import Unavailable

S = TypeVar("S")


def until(look: Callable[[], S], wanted: Callable[[S], bool], what: str, *, patience: float) -> S:
    """Look until it is as wanted; Unavailable is no answer, so it is asked again.

    Raises AssertionError with the last answer after ``patience`` seconds, or that Unavailable.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            seen = look()
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
        else:
            if wanted(seen):
                return seen
            assert time.monotonic() < deadline, f"not {what} after {patience:g} s, but {seen}"
        time.sleep(0.1)
