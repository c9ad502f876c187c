"""Pace retries of what keeps failing: the first at once, later ones ever later. Pure but for its memory."""

from __future__ import annotations

from datetime import datetime

_LONGEST = 60.0


class Pace:
    """Counter of tries in a row, by key. One thread at a time uses a key."""

    def __init__(self) -> None:
        self._tries: dict[str, tuple[int, datetime]] = {}
        """key -> (tries in a row, when the last one began)."""

    def wait(self, key: str, now: datetime) -> float:
        """Seconds until the next try may begin; 0 if it may now."""
        count, last = self._tries.get(key, (0, now))
        pause = 0.0 if count == 0 else min(_LONGEST, 2.0 ** (count - 1))
        return max(0.0, pause - (now - last).total_seconds())

    def began(self, key: str) -> datetime | None:
        """The begin of the last try; None if none is known."""
        try_ = self._tries.get(key)
        return None if try_ is None else try_[1]

    def begin(self, key: str, now: datetime) -> None:
        """Count a try that begins now."""
        count, _ = self._tries.get(key, (0, now))
        self._tries[key] = (count + 1, now)

    def adopt(self, key: str, now: datetime) -> None:
        """Count a try that began before this process as one that begins now, unless one is known."""
        self._tries.setdefault(key, (1, now))

    def forget(self, key: str) -> None:
        """Reset the key after a success."""
        self._tries.pop(key, None)
