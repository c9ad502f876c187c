"""Followed logs and held requests: how many a principal may have, and how often all of them together look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rayplane.errors import TooMany
from rayplane.gateway import metrics
from rayplane.gateway.admission.roles import Principal

LOOKS = 100
"""Times a second that all followers together look into the store, at most: each costs about a millisecond of CPU."""


class Followed:
    """What is followed now. For one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, principal: Principal) -> Iterator[None]:
        """Count one more for the length of the block; raises TooMany where the principal has as many as one may."""
        if self._open[principal.name] >= self._most:
            metrics.LIMITED.labels("followed_logs").inc()
            raise TooMany(
                f"'{principal.name}' follows {self._most} logs, and may not follow more at once.",
                remedy="Stop following some of them, or read this one without following it.",
                retry_after=5,
            )
        self._open[principal.name] += 1
        try:
            yield
        finally:
            self._open[principal.name] -= 1
            if not self._open[principal.name]:
                del self._open[principal.name]

    def pause(self) -> float:
        """Seconds between two looks of one follower, now that there are so many."""
        return self._open.total() / LOOKS
