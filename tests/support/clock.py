"""A client's clock that only its own sleeps move: a wait of minutes takes no time."""

from __future__ import annotations

from rayplane.client.sdk import Clock


class FakeClock(Clock):
    """Starts at 0, and remembers its sleeps."""

    def __init__(self) -> None:
        self.sleeps: list[float] = []
        self._now = 0.0

    def now(self) -> float:
        """Seconds since the start."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move forward at once."""
        self.sleeps.append(seconds)
        self._now += seconds
