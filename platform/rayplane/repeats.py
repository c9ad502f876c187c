"""Log an error that comes back at every look: in full the first time, then now and then one line with a count.

Pure but for the logger that it is handed: the clock comes as an argument.
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
"""After so many seconds at most an error that still comes back is told of again."""
MOST = 1000
"""Errors that are remembered at once; for one more, the one that came back longest ago is forgotten."""

# Ids, ports, addresses and times: the same error says others at each look.
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass
class _Known:
    """An error that came back."""

    identity: tuple[str, ...]
    count: int
    since: float
    """Seconds since the epoch."""
    told_at: float
    told_count: int = 1


class Repeats:
    """The errors of one loop, each under a key of its own (the object that was looked at). Thread-safe."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def failed(self, key: str, exc: Exception, message: str, *args: object, traceback: bool = True) -> None:
        """An error was met at a look at ``key``; ``message`` and ``args`` are as for a logger.

        ``traceback``: it is unexpected, so it is an error with its traceback; else its text is a warning. One that
        comes back is told of in one line at each doubling of its count, and after ten minutes at the latest.
        """
        level = logging.ERROR if traceback else logging.WARNING
        known = self._note(key, exc)
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
        """A look at ``key`` went well: an error that comes later is a new one, and told in full."""
        with self._lock:
            known = self._known.pop(key, None)
        if known is not None and known.count > 1:
            self._log.info("%s works again after %d errors", key, known.count)

    def _note(self, key: str, exc: Exception) -> _Known:
        identity, now = _identity(exc), self._clock()
        with self._lock:
            known = self._known.pop(key, None)
            if known is None or known.identity != identity:
                known = _Known(identity, 0, now, now)
            known.count += 1
            self._known[key] = known  # last: the one that came back most lately
            while len(self._known) > MOST:
                del self._known[next(iter(self._known))]
            return known

    def _is_due(self, known: _Known) -> bool:
        now = self._clock()
        with self._lock:
            if known.count < 2 * known.told_count and now - known.told_at < REMIND_SECONDS:
                return False
            known.told_at, known.told_count = now, known.count
            return True


def _identity(exc: Exception) -> tuple[str, ...]:
    """What two errors share that are the same: their kind, where they were raised, and their text without numbers."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return (type(exc).__qualname__, where, _VARYING.sub("#", str(exc))[:1000])


def _line(text: str) -> str:
    return " ".join(text.split())[:500]
