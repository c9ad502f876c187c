"""The time of a client: all its waits and retries take it from one clock, for which a test passes its own."""

from __future__ import annotations

import time


class Clock:
    """The host's monotonic clock."""

    def now(self) -> float:
        """Seconds since some instant in the past; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        time.sleep(seconds)
