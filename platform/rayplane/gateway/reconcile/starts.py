"""Limit the steps that start at once to a host's cores; the one with the longest chain of dependents starts first.

The start is the expensive part of a step: imports, Ray's first task. A step holds its slot until it has ended, or for
``HOLD`` seconds, so that a long step, or one that waits, keeps no other from starting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

HOLD = 15.0
"""Seconds after which a step that still runs counts as started."""


@dataclass(eq=False)
class _Start:
    rank: int
    until: float | None = None
    """When it counts as started, on the clock; None while it waits for a slot."""


class Starts:
    """Slots for starting steps, by host. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._hosts: dict[str, list[_Start]] = {}

    @contextmanager
    def slot(self, host: str, *, cores: int | None, rank: int, leaving: Callable[[], bool]) -> Iterator[None]:
        """Wait for a slot, then hold it for the block. ``cores`` None: no limit.

        Among waiting steps the highest ``rank`` is first, then the earliest. ``leaving`` ends the wait.
        """
        if cores is None:
            yield
            return
        start = _Start(rank)
        with self._changed:
            starts = self._hosts.setdefault(host, [])
            starts.append(start)
        try:
            with self._changed:
                while not self._is_next(starts, start, cores) and not leaving():
                    self._changed.wait(0.2)
                start.until = self._clock() + HOLD
            yield
        finally:
            with self._changed:
                starts.remove(start)
                if not starts:
                    self._hosts.pop(host, None)
                self._changed.notify_all()

    def _is_next(self, starts: Sequence[_Start], start: _Start, cores: int) -> bool:
        now = self._clock()
        holding = sum(other.until is not None and other.until > now for other in starts)
        waiting = [other for other in starts if other.until is None]
        return holding < cores and max(waiting, key=lambda other: other.rank) is start


def ranks(needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Step -> length of the longest chain of its dependents. ``needs``: each step's dependencies, acyclic."""
    known: dict[str, int] = {}

    def rank(name: str) -> int:
        if name not in known:
            known[name] = max((1 + rank(other) for other, its in needs.items() if name in its), default=0)
        return known[name]

    return {name: rank(name) for name in needs}
