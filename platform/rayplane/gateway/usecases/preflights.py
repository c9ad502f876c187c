"""Limit the pre-flights under way in the whole gateway: each occupies a thread while a backend, maybe slow, answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rayplane.errors import Unavailable

PLAN_PATIENCE = 20.0
"""Seconds after which a plan makes no further pre-flight."""


class Preflights:
    """Admits a few pre-flights, lets a few more wait for a moment, and refuses the others. Thread-safe."""

    def __init__(self, *, at_once: int = 8, waiting: int = 8, patience: float = 2.0, plans: int = 4) -> None:
        self._at_once = at_once
        self._slots = threading.BoundedSemaphore(at_once)
        self._queue = threading.BoundedSemaphore(waiting)
        self._patience = patience
        self._plans = plans
        self._planning = threading.BoundedSemaphore(plans)

    def make(self, act: Callable[[], list[str]], *, until: float = float("inf")) -> list[str]:
        """Make a pre-flight and return its reasons; begin none after ``until``, an instant of the monotonic clock.

        Raises Unavailable if it was not made; with ``retry_after`` where too many others are under way.
        """
        if time.monotonic() >= until:
            raise Unavailable("Pre-flight was not made: the time for it is over.", remedy="Ask for less at once.")
        with self._slot(until):
            return act()

    def begin_plan(self) -> bool:
        """Take a slot for one more plan, which ``end_plan`` releases; False if none is free."""
        return self._planning.acquire(blocking=False)

    def end_plan(self) -> None:
        """Release a plan's slot."""
        self._planning.release()

    def too_many_plans(self) -> Unavailable:
        """The error for a plan that finds no free slot."""
        return _busy(f"The plan was not made: {self._plans} others are under way.")

    @contextmanager
    def _slot(self, until: float) -> Iterator[None]:
        if not self._slots.acquire(blocking=False):
            self._wait(until)
        try:
            yield
        finally:
            self._slots.release()

    def _wait(self, until: float) -> None:
        busy = _busy(f"Pre-flight was not made: {self._at_once} others are under way.")
        if not self._queue.acquire(blocking=False):
            raise busy
        try:
            if not self._slots.acquire(timeout=max(0.0, min(self._patience, until - time.monotonic()))):
                raise busy
        finally:
            self._queue.release()


def _busy(detail: str) -> Unavailable:
    return Unavailable(detail, remedy="Try again in some seconds.", retry_after=5)
