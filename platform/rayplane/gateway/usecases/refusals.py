"""Write refused requests (401, 403) to the audit log: count them in memory, and write them on a thread of its own.

A flood of them costs only a few rows: requests that share all but their path become one row with a count. Rows that
can't be written yet (the database is locked) are kept for later. ``Tally`` is pure; ``Refusals`` has the thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from rayplane.gateway import metrics
from rayplane.gateway.store import Store
from rayplane.nouns.base import utcnow
from rayplane.repeats import Repeats

log = logging.getLogger(__name__)

ACTION = "refuse"
FIRST, LEAST, LONGEST = 5.0, 60.0, 300.0
"""Seconds for which refusals of one kind are counted before a row is written: at first, then at least, and at most.

They double with each row.
"""
MOST = 256
"""Kinds of refusals that are counted separately; all further kinds are counted together, by status."""
OTHERS = "others"
TICK = 1.0
"""Seconds between two looks for due rows."""


@dataclass(frozen=True)
class Kind:
    """The properties by which refusals are counted together."""

    address: str
    principal: str
    """Empty if the caller is unknown."""
    team: str
    """The principal's team, if it belongs to one: the row is in that team's audit log too."""
    method: str
    route: str
    """The route's template."""
    status: int
    reason: str


@dataclass(frozen=True)
class Counted:
    """Refusals of one kind: a row of the audit log."""

    kind: Kind
    count: int
    first: datetime
    last: datetime
    path: str
    """The path of the last one."""
    message: str


@dataclass
class _Entry:
    due: float
    pause: float = FIRST
    waiting: Counted | None = None


class Tally:
    """Refusals that are not written yet, and the kinds that were written recently."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._entries: dict[Kind, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, kind: Kind, path: str, message: str, *, now: float, at: datetime) -> None:
        """Count one refusal; ``now`` is monotonic."""
        if kind not in self._entries and len(self._entries) >= self._most:
            kind, path = Kind(OTHERS, "", "", "", "", kind.status, "too-many-kinds"), ""
            message = f"More than {self._most} kinds of requests were refused at once: these are the rest."
        self._add(Counted(kind, 1, at, at, path, message), now)

    def take(self, now: float, *, all_of_them: bool = False) -> list[Counted]:
        """Remove and return the rows that are due. A kind without refusals since its last row is forgotten."""
        rows = []
        for kind, entry in list(self._entries.items()):
            if not (all_of_them or now >= entry.due):
                continue
            if entry.waiting is None:
                del self._entries[kind]
                continue
            rows.append(entry.waiting)
            entry.waiting = None
            entry.pause = min(max(LEAST, 2 * entry.pause), LONGEST)
            entry.due = now + entry.pause
        return rows

    def put_back(self, rows: Iterable[Counted], now: float) -> None:
        """Put back rows that could not be written; they are due at once."""
        for row in rows:
            self._add(row, now)
            self._entries[row.kind].due = now

    def _add(self, row: Counted, now: float) -> None:
        entry = self._entries.setdefault(row.kind, _Entry(due=now + FIRST))
        known = entry.waiting
        if known is None:
            entry.waiting = row
            return
        newest = max(known, row, key=lambda counted: counted.last)
        entry.waiting = Counted(
            row.kind,
            known.count + row.count,
            min(known.first, row.first),
            newest.last,
            newest.path,
            newest.message,
        )


class Refusals:
    """Takes refusals from any thread without blocking it, and writes them. Call ``start`` and ``close`` once each."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], datetime] = utcnow,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._tally = Tally()
        self._errors = Repeats(log)
        self._closing = threading.Event()
        self._noted = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, kind: Kind, path: str, message: str) -> None:
        """Count a refused request."""
        metrics.REFUSED.labels(str(kind.status), kind.reason).inc()
        with self._lock:
            self._tally.note(kind, path, message, now=self._monotonic(), at=self._clock())
        self._noted.set()

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write all that is left, and log how many can't be. Blocks for as long as the store waits for a lock."""
        self._closing.set()
        self._noted.set()
        if self._thread is not None:
            self._thread.join()
        if not self.write(all_of_them=True):
            with self._lock:
                lost = sum(row.count for row in self._tally.take(self._monotonic(), all_of_them=True))
            log.error("%d refused requests are not in the audit log: the store could not be written", lost)

    def write(self, *, all_of_them: bool = False) -> bool:
        """Write the due rows; False if the store can't, which keeps them for later."""
        with self._lock:
            rows = self._tally.take(self._monotonic(), all_of_them=all_of_them)
        if not rows:
            return True
        try:
            with self._store.transaction():
                for row in rows:
                    self._write(row)
        except Exception as exc:  # noqa: BLE001  after any error the rows are kept, and their number is bounded
            with self._lock:
                self._tally.put_back(rows, self._monotonic())
            self._errors.failed("audit", exc, "refused requests can't be written yet", traceback=False)
            return False
        self._errors.works("audit")
        return True

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._lock:
                if not len(self._tally):
                    self._noted.clear()
            self._noted.wait()
            self._closing.wait(TICK)
            if not self._closing.is_set():
                self.write()

    def _write(self, row: Counted) -> None:
        kind = row.kind
        detail = {
            "address": kind.address,
            "method": kind.method,
            "path": row.path,
            "status": kind.status,
            "reason": kind.reason,
            "message": row.message,
            "count": row.count,
            "first": row.first.isoformat(),
            "last": row.last.isoformat(),
        }
        self._store.audit(kind.principal, ACTION, kind="Request", team=kind.team, name=kind.route, detail=detail)
