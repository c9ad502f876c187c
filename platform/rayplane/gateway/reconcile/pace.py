"""Pace retries of what keeps failing: the first at once, later ones ever later. Pure but for its memory."""

from __future__ import annotations

from datetime import datetime

_LONGEST = 60.0


class Pace:
    """Counter of tries in a row, by key. One thread at a time uses a key."""

    def __init__(self) -> None:
        self._tries: dict[str, tuple[int, datetime]] = {}
        """key -> (tries in a row, when the last one began)."""

    def before(self, key: str, now: datetime) -> float:
        """Seconds to wait before the next try; at 0 the try counts as begun."""
        count, last = self._tries.get(key, (0, now))
        pause = 0.0 if count == 0 else min(_LONGEST, 2.0 ** (count - 1))
        left = pause - (now - last).total_seconds()
        if count and left > 0:
            return left
        self._tries[key] = (count + 1, now)
        return 0.0

    def since(self, key: str, now: datetime) -> datetime:
        """The begin of the last try; now for one that began before this process."""
        return self._tries.setdefault(key, (1, now))[1]

    def forget(self, key: str) -> None:
        """Reset the key after a success."""
        self._tries.pop(key, None)
