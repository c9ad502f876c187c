"""Limits of followed logs and held requests: their number per principal, and how often all together read the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rayplane.errors import TooMany
from rayplane.gateway import metrics
from rayplane.gateway.admission.roles import Principal

LOOKS = 100
"""Maximum reads of the store per second by all followers together: each costs about a millisecond of CPU."""


class Followed:
    """Counts the logs that each principal follows now. For one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, principal: Principal) -> Iterator[None]:
        """Count one more for the duration of the block; raises TooMany if the principal has reached the limit."""
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
        """Seconds between two reads of one follower, given the present number of followers."""
        return self._open.total() / LOOKS
