"""The leader's one loop: looks at what is due, each object in a thread of a pool, with back-off for each.

An object is due when it was written to, when its reconciler asked for it, or when somebody below says that it changed.
Those that are at rest cost nothing: what was written is asked for by version, and the nearest due time is a heap's top.
Nor do those that wait for another object (a job for its cluster): they are due when that one is written.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from rayplane.errors import NotFound, RayplaneError, Unavailable
from rayplane.gateway import metrics
from rayplane.gateway.reconcile.leader import Leader
from rayplane.gateway.reconcile.parking import Parking, Until
from rayplane.gateway.store.objects import Written
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import by_kind
from rayplane.nouns.base import Object
from rayplane.repeats import Repeats

log = logging.getLogger(__name__)

FULL_SCAN = 60.0
"""Seconds between two looks at the list of all objects, in case that something was missed; it reads no spec."""
_LOOK = "the look at the objects"
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 60.0
LONGEST_WAIT_FOR_OTHERS = 5.0
"""The longest back-off, in seconds, where something that is down may be up again at any moment."""

# Kinds that leave many ended objects behind: in other phases they are at rest until they are written to.
_ACTIVE: dict[str, Collection[str]] = {
    "Job": ("", "Pending", "Starting", "Running"),
    "PipelineRun": ("", "Pending", "Running"),
}


class Reconciler(Protocol):
    """Makes the objects of one kind as they are wanted."""

    kind: str

    def reconcile(self, obj: Object) -> float | Until | None:
        """Do at most one bounded thing for the object.

        Returns the seconds after which to be asked again, None if it is settled until it is written to, Until if it
        waits for another object to be. An error is recorded on the object, and it is asked again with back-off. Called
        by one thread at a time for each object.
        """
        ...


@runtime_checkable
class Stateful(Protocol):
    """A reconciler that holds something (threads, a database) for as long as this process leads."""

    def start(self) -> None:
        """Leadership begins."""
        ...

    def stop(self) -> None:
        """Leadership ends; whatever is under way goes on with the next leader."""
        ...


@dataclass
class _Entry:
    """What the loop knows of one object."""

    reconciler: Reconciler
    due: float = float("inf")
    """When to look at it, on the monotonic clock."""
    wanted: tuple[int, datetime | None] | None = None
    """What was wanted (generation, deletion) when it was last looked at, or is about to be."""
    running: bool = False
    written: bool = False
    """Whether it was written to while it was being looked at."""
    woken: bool = False
    """Whether it changed below while it was being looked at."""
    failures: int = 0
    recorded: bool = False
    """Whether the object's status tells of the failures."""
    version: int = 0
    """The newest resource version that is known of it."""


class Loop:
    """One thread that decides what is due, and a pool that does it, so that a slow cluster stalls only itself."""

    def __init__(
        self,
        platform: Platform,
        reconcilers: Sequence[Reconciler],
        leader: Leader,
        *,
        others: Sequence[Stateful] = (),
        interval: float = 1.0,
        workers: int = 16,
    ) -> None:
        """``others`` start and stop with the leadership, as reconcilers do that hold something."""
        self._platform = platform
        self._others = list(others)
        self._reconcilers = list(reconcilers)
        self._by_kind = {reconciler.kind: reconciler for reconciler in reconcilers}
        self._leader = leader
        self._interval = interval
        self._workers = workers
        self._entries: dict[str, _Entry] = {}
        self._heap: list[tuple[float, int, str]] = []
        """(due, a number that keeps their order, uid). An item counts only if it is its entry's due time."""
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._parking = Parking(platform.store.changes, self._tell)
        """Which objects wait for another one. Guarded by the lock."""
        self._told: deque[str] = deque()
        """Objects that others wait for, and that were written since the last look."""
        self._nudge = threading.Event()
        self._written = threading.Event()
        self._stopping = threading.Event()
        self._leading = False
        self._version: int | None = None
        """The newest version that was seen of the store; None: nothing of it was seen yet."""
        self._last_full = self._last_asked = float("-inf")
        self._errors = Repeats(log)
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def leading(self) -> bool:
        """Whether this process reconciles."""
        return self._leading

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="reconcile")
        self._thread = threading.Thread(target=self._run, name="reconcile-loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End: what is being done is finished, then leadership is given up. Blocks until then."""
        self._stopping.set()
        self._nudge.set()
        if self._thread is not None:
            self._thread.join()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._lead(False)
        try:
            self._leader.release()
        except RayplaneError as exc:
            log.warning("leadership was not given up, it ends by itself: %s", exc)

    def wake(self, uid: str | None = None) -> None:
        """Something was written: look now. ``uid``: what is there of this object changed, look at it. Any thread may.

        An object that the loop does not know, or while another gateway leads, is none of its business.
        """
        if uid is not None:
            with self._lock:
                entry = self._entries.get(uid)
                if entry is None:
                    return
                if entry.running:
                    entry.woken = True
                elif entry.failures == 0:  # else it is tried again soon enough: its own doing may be what woke it
                    self._schedule(uid, entry, time.monotonic())
        else:
            self._written.set()
        self._nudge.set()

    def look_at_everything(self) -> None:
        """Something changed that concerns them all: look at each object that is not at its end. Any thread may."""
        now = time.monotonic()
        with self._lock:
            for uid, entry in self._entries.items():
                self._schedule(uid, entry, now)
        self._nudge.set()

    def _tell(self, uid: str) -> None:
        """Others wait for this object, and it was written. Any thread may; one that has just written must not wait."""
        self._told.append(uid)
        self._nudge.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause = self._interval
            try:
                if self._leader.leads() != self._leading:
                    self._lead(not self._leading)
                if self._leading:
                    pause = self._look()
                self._errors.works(_LOOK)
            except Exception as exc:  # noqa: BLE001  the next look is made all the same
                self._errors.failed(_LOOK, exc, "a look at the objects failed")
            self._nudge.wait(pause)
            self._nudge.clear()

    def _lead(self, leading: bool) -> None:
        if leading == self._leading:
            return
        log.info("this gateway %s", "leads" if leading else "leads no more")
        stateful = [*(r for r in self._reconcilers if isinstance(r, Stateful)), *self._others]
        if leading:
            self._start_all(stateful)
            self._version, self._last_asked = None, float("-inf")
        self._leading = leading
        metrics.LEADER.set(leading)
        if not leading:
            with self._lock:  # what is being looked at stays known: it must not be looked at twice at once
                self._entries = {uid: entry for uid, entry in self._entries.items() if entry.running}
                for entry in self._entries.values():
                    entry.wanted = None
                self._heap.clear()
                self._parking.clear()
            for reconciler in stateful:
                reconciler.stop()

    def _start_all(self, stateful: Sequence[Stateful]) -> None:
        """Start each, or none: the next look tries again."""
        started: list[Stateful] = []
        try:
            for reconciler in stateful:
                reconciler.start()
                started.append(reconciler)
        except Exception:
            for reconciler in started:
                reconciler.stop()
            raise

    def _look(self) -> float:
        """Take in what was written, hand what is due to the pool; the seconds until the next one will be."""
        now = time.monotonic()
        if self._written.is_set() or now - self._last_asked >= self._interval:
            self._written.clear()
            self._last_asked = now
            self._take_in(now)
        with self._lock:
            while self._told:
                self._release(self._told.popleft(), None, now)
            while self._heap and self._heap[0][0] <= now:
                due, _, uid = heapq.heappop(self._heap)
                entry = self._entries.get(uid)
                if entry is not None and entry.due == due and not entry.running:
                    self._hand_over(uid, entry, now)
            nearest = self._heap[0][0] if self._heap else float("inf")
        return min(self._interval, max(0.0, nearest - time.monotonic()))

    def _take_in(self, now: float) -> None:
        full = self._version is None or now - self._last_full >= FULL_SCAN
        written, version = self._platform.store.written(None if full else self._version)
        with self._lock:
            for item in written:
                self._consider(item, now)
                # This process' own writes were told of already; another's are not.
                self._release(item.uid, item.version, now)
            if full:
                self._last_full = now
                present = {item.uid for item in written}
                for uid in [uid for uid in self._entries if uid not in present]:
                    self._forget(uid)
        self._version = version

    def _consider(self, item: Written, now: float) -> None:
        """Look at what is wanted otherwise than it was; a status that was written changes nothing of that."""
        reconciler = self._by_kind.get(item.kind)
        if reconciler is None:
            return
        if item.gone:
            self._forget(item.uid)
            return
        entry = self._entries.get(item.uid)
        active = _ACTIVE.get(item.kind)
        ended = active is not None and item.phase not in active and item.wanted[1] is None
        if ended and (entry is None or entry.due == float("inf")):
            self._forget(item.uid)
            return
        if entry is None:
            entry = self._entries[item.uid] = _Entry(reconciler)
        entry.version = item.version
        if entry.wanted != item.wanted:
            entry.wanted = item.wanted
            self._schedule(item.uid, entry, now)

    def _release(self, other: str, version: int | None, now: float) -> None:
        """Look at those that wait for an object which was written. The lock is held."""
        for uid in self._parking.release(other, version):
            entry = self._entries.get(uid)
            if entry is not None:
                self._schedule(uid, entry, now)

    def _forget(self, uid: str) -> None:
        entry = self._entries.get(uid)
        if entry is not None and not entry.running:
            self._parking.leave(uid)
            del self._entries[uid]

    def _schedule(self, uid: str, entry: _Entry, due: float) -> None:
        """Look at it no later than ``due``. The lock is held."""
        if entry.running:
            entry.written = True
        elif due < entry.due:
            entry.due = due
            heapq.heappush(self._heap, (due, next(self._order), uid))

    def _hand_over(self, uid: str, entry: _Entry, now: float) -> None:
        metrics.RECONCILE_LAG.labels(entry.reconciler.kind).set(max(0.0, now - entry.due))
        entry.running, entry.written, entry.woken = True, False, False
        self._parking.leave(uid)
        assert self._pool is not None
        self._pool.submit(self._reconcile, entry.reconciler, uid, entry)

    def _reconcile(self, reconciler: Reconciler, uid: str, entry: _Entry) -> None:
        started = time.monotonic()
        due, gone = started + LONGEST_BACKOFF, False  # whatever goes wrong below: forgotten is only what is gone
        until: Until | None = None
        try:
            # Read now: it may have been written to since it became due.
            obj = self._platform.store.get_by_uid(uid)
            again = reconciler.reconcile(obj)
            if entry.recorded:
                self._record(reconciler.kind, uid, None)
            if entry.failures:
                self._errors.works(uid)
            entry.failures, entry.recorded = 0, False
            until = again if isinstance(again, Until) else None
            seconds = again.within if isinstance(again, Until) else again
            due = float("inf") if seconds is None else time.monotonic() + seconds
        except NotFound as exc:
            if self._exists(uid):
                due = self._failed(reconciler.kind, uid, entry, exc)
            else:
                gone = True
        except Exception as exc:  # noqa: BLE001  logged with its traceback where it is not one of ours
            due = self._failed(reconciler.kind, uid, entry, exc)
        finally:
            metrics.RECONCILE_SECONDS.labels(reconciler.kind).observe(time.monotonic() - started)
            self._done(uid, entry, due, gone, until)

    def _done(self, uid: str, entry: _Entry, due: float, gone: bool, until: Until | None) -> None:
        with self._lock:
            entry.running, entry.due = False, float("inf")
            if gone:
                self._entries.pop(uid, None)
                return
            if entry.written or (entry.woken and entry.failures == 0):
                due = time.monotonic()
            elif until is not None and self._leading:
                self._parking.park(uid, until)
                other = self._entries.get(until.uid)
                if other is not None and other.version > until.version:  # written while this one was looked at
                    due = time.monotonic()
            if due != float("inf"):
                self._schedule(uid, entry, due)
            soonest = bool(self._heap) and self._heap[0][2] == uid
            if not self._leading:
                entry.wanted = None
        if soonest:
            self._nudge.set()

    def _failed(self, kind: str, uid: str, entry: _Entry, exc: Exception) -> float:
        metrics.RECONCILE_ERRORS.labels(kind).inc()
        if isinstance(exc, RayplaneError):
            self._errors.failed(uid, exc, "%s %s", kind, uid, traceback=False)
        else:
            self._errors.failed(uid, exc, "%s %s: an unexpected error", kind, uid)
        entry.failures += 1
        try:
            self._record(kind, uid, exc)
            entry.recorded = True
        except Exception as unrecorded:  # noqa: BLE001  the look that failed is made again all the same
            self._errors.failed(f"{uid}:record", unrecorded, "the error of %s %s could not be recorded", kind, uid)
        longest = LONGEST_WAIT_FOR_OTHERS if isinstance(exc, Unavailable) else LONGEST_BACKOFF
        return time.monotonic() + min(longest, FIRST_BACKOFF * 2.0 ** min(entry.failures - 1, 10))

    def _record(self, kind: str, uid: str, exc: Exception | None) -> None:
        """Say in the object's conditions that the last look at it failed, or that it does no longer."""
        store = self._platform.store
        with store.transaction():
            if not self._exists(uid):
                return
            obj = store.get_by_uid(uid)
            status = by_kind(kind).status.model_validate(obj.status)
            reason = type(exc).__name__ if exc else "Done"
            message = "" if exc is None else str(exc) if isinstance(exc, RayplaneError) else f"{reason}: {exc}"
            status.set_condition("Reconciled", exc is None, reason, message, obj.metadata.generation)
            store.set_status(uid, status)

    def _exists(self, uid: str) -> bool:
        try:
            self._platform.store.get_by_uid(uid)
        except NotFound:
            return False
        return True
