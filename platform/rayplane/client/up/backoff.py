"""Compute the pause before an ended child is restarted: exponential back-off. Pure: the caller passes the time."""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST = 0.5
LONGEST = 30.0
STEADY = 60.0
"""Seconds of health after which the pause is reset to FIRST."""


@dataclass
class Backoff:
    """A pause that doubles from FIRST to LONGEST seconds with each end, and is reset by STEADY seconds of health."""

    restarts: int = 0
    """Number of restarts, including those under an earlier supervisor, as `status` shows it."""
    _delay: float = field(default=0.0, repr=False)
    _healthy_since: float | None = field(default=None, repr=False)

    def healthy(self, now: float) -> None:
        """Note that the child is healthy at ``now`` (seconds of a monotonic clock)."""
        if self._healthy_since is None:
            self._healthy_since = now
        elif now - self._healthy_since >= STEADY:
            self._delay = 0.0

    def unhealthy(self) -> None:
        """Note that a check failed: the period of health starts over."""
        self._healthy_since = None

    def ended(self, now: float) -> float:
        """Note that the child ended at ``now``; return the time at which it may be restarted."""
        self.restarts += 1
        self._healthy_since = None
        self._delay = min(LONGEST, self._delay * 2 or FIRST)
        return now + self._delay
