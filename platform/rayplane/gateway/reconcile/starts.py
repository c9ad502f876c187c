"""Let no more steps start at once than a host has cores: the one with the longest way behind it first.

A start is what costs: imports, Ray's first task. A step holds its place until it has ended, or for ``HOLD`` seconds, so
that one which runs long, or waits for something else, keeps no other from starting.
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
    """When it counts as started, on the clock; None while it waits."""


class Starts:
    """Places to start in, by the host whose cores they are. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._hosts: dict[str, list[_Start]] = {}

    @contextmanager
    def place(self, host: str, *, cores: int | None, rank: int, leaving: Callable[[], bool]) -> Iterator[None]:
        """Wait for a place, then hold it for the block. ``cores`` None: no step waits.

        Of those that wait the highest ``rank`` is first, then the one that came first. ``leaving`` ends the wait.
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
    """Step -> how many steps, one after the other, wait for it at most. ``needs`` are those of each step, acyclic."""
    known: dict[str, int] = {}

    def rank(name: str) -> int:
        if name not in known:
            known[name] = max((1 + rank(other) for other, its in needs.items() if name in its), default=0)
        return known[name]

    return {name: rank(name) for name in needs}
