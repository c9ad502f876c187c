"""Log an error that recurs in a loop: in full the first time, later occasionally as one line with a count.

Pure, except for calls of the logger; the clock is an argument.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

REMIND_SECONDS = 600.0
"""Seconds after which a recurring error is logged again at the latest."""
MOST = 1000
"""The most errors that are remembered; beyond that, the one that has not recurred for longest is forgotten."""

# Ids, ports, addresses and times, which may differ each time the same error occurs. The parts of a UUID are one word.
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{8,}\b|\d+")


@dataclass
class _Known:
    """An error and its occurrences."""

    identity: tuple[str, ...]
    count: int
    since: float
    """Seconds since the epoch."""
    logged_at: float
    logged_count: int = 1


class Repeats:
    """Errors of one loop, each under a key, such as the object that the loop works on. Thread-safe."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def failed(self, key: str, exc: Exception, message: str, *args: object, traceback: bool = True) -> None:
        """Record that work on ``key`` failed, and log it if due; ``message`` and ``args`` are as for a logger.

        With ``traceback``, for unexpected errors, logs an error with its traceback, else a warning with its text. A
        recurring error is logged in one line each time its count has doubled, and after ten minutes at the latest.
        """
        level = logging.ERROR if traceback else logging.WARNING
        known = self._count_occurrence(key, exc)
        if known.count == 1 and traceback:
            self._log.log(level, message, *args, exc_info=exc)
        elif known.count == 1:
            self._log.log(level, f"{message}: %s", *args, exc)
        elif self._is_due(known):
            since = datetime.fromtimestamp(known.since, UTC).isoformat(timespec="seconds")
            text = f"{type(exc).__name__}: {exc}" if traceback else str(exc)
            self._log.log(
                level, f"{message}: the same error %d times since %s: %s", *args, known.count, since, _line(text)
            )

    def works(self, key: str) -> None:
        """Record that work on ``key`` succeeded: a later error counts as new and is logged in full."""
        with self._lock:
            known = self._known.pop(key, None)
        if known is not None and known.count > 1:
            self._log.info("%s works again after %d errors", key, known.count)

    def _count_occurrence(self, key: str, exc: Exception) -> _Known:
        identity, now = _identity(exc), self._clock()
        with self._lock:
            known = self._known.pop(key, None)
            if known is None or known.identity != identity:
                known = _Known(identity, 0, now, now)
            known.count += 1
            self._known[key] = known  # inserted last: the most recent one
            while len(self._known) > MOST:
                del self._known[next(iter(self._known))]
            return known

    def _is_due(self, known: _Known) -> bool:
        now = self._clock()
        with self._lock:
            if known.count < 2 * known.logged_count and now - known.logged_at < REMIND_SECONDS:
                return False
            known.logged_at, known.logged_count = now, known.count
            return True


def _identity(exc: Exception) -> tuple[str, ...]:
    """Identity of an error: its type, the line that raised it, and its text without numbers."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return (type(exc).__qualname__, where, _VARYING.sub("#", str(exc))[:1000])


def _line(text: str) -> str:
    return " ".join(text.split())[:500]
