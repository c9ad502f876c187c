"""How long to wait before a child that ended is started again. Pure: the caller brings the clock."""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST = 0.5
LONGEST = 30.0
STEADY = 60.0
"""Seconds of health after which a child's past is forgotten."""


@dataclass
class Backoff:
    """Doubles from FIRST to LONGEST seconds with each end; a child that was healthy for STEADY seconds begins anew."""

    restarts: int = 0
    """How often the child was started again, ever: what `status` shows."""
    _delay: float = field(default=0.0, repr=False)
    _healthy_since: float | None = field(default=None, repr=False)

    def healthy(self, now: float) -> None:
        """Note that the child is healthy at ``now`` (seconds of a monotonic clock)."""
        if self._healthy_since is None:
            self._healthy_since = now
        elif now - self._healthy_since >= STEADY:
            self._delay = 0.0

    def unhealthy(self) -> None:
        """Note that a check failed: the time of health begins anew."""
        self._healthy_since = None

    def ended(self, now: float) -> float:
        """Note that the child ended at ``now``; the instant at which it may be started again."""
        self.restarts += 1
        self._healthy_since = None
        self._delay = min(LONGEST, self._delay * 2 or FIRST)
        return now + self._delay
