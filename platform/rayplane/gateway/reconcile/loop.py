"""Run the leader's loop: reconcile the objects that are due, each in a thread of a pool, with back-off for each.

An object is due when it was written, when its reconciler asked for it, or when a backend reports that it changed.
Objects at rest cost nothing: the loop reads written objects by version, and the next due time is on top of a heap.
An object that waits for another one (a job for its cluster) costs nothing either: it is due when that one is written.
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
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases.platform import Platform
from rayplane.repeats import Repeats

log = logging.getLogger(__name__)

FULL_SCAN = 60.0
"""Seconds between two looks at the list of all objects, in case that a write was missed; it reads no spec."""
_LOOK = "the look at the objects"
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 60.0
LONGEST_WAIT_FOR_OTHERS = 5.0
"""The longest back-off, in seconds, after an Unavailable: the dependency may be back at any moment."""

# Kinds with many ended objects: one in any other phase is at rest until it is written.
_ACTIVE: dict[str, Collection[str]] = {
    "Job": ("", "Pending", "Starting", "Running"),
    "PipelineRun": ("", "Pending", "Running"),
}


class Reconciler(Protocol):
    """Reconciler of the objects of one kind: drives each to its spec."""

    kind: str

    def reconcile(self, obj: AnyObject) -> float | Until | None:
        """Take at most one bounded step for the object.

        Returns the seconds until the next call, None if the object is settled until it is written, Until if it waits
        for another object to be written. The loop records an error on the object and calls again with back-off. One
        thread at a time calls this for an object.
        """
        ...


@runtime_checkable
class Stateful(Protocol):
    """A reconciler that owns resources (threads, a database) while this process leads."""

    def start(self) -> None:
        """Begin to lead."""
        ...

    def stop(self) -> None:
        """End to lead; the next leader continues what is under way."""
        ...


@dataclass
class _Entry:
    """The loop's record of one object."""

    reconciler: Reconciler
    due: float = float("inf")
    """When to reconcile it, on the monotonic clock."""
    wanted: tuple[int, datetime | None] | None = None
    """(generation, deletion) at the last look, or at the one that is about to come."""
    running: bool = False
    written: bool = False
    """True if it was written during the look."""
    woken: bool = False
    """True if the backend reported a change during the look."""
    failures: int = 0
    recorded: bool = False
    """True if the object's status has the failure."""
    version: int = 0
    """The newest known resource version."""


class Loop:
    """One thread that decides what is due, and a pool that reconciles it, so that a slow cluster stalls only itself."""

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
        """``others`` start and stop with the leadership, like stateful reconcilers."""
        self._platform = platform
        self._others = list(others)
        self._reconcilers = list(reconcilers)
        self._by_kind = {reconciler.kind: reconciler for reconciler in reconcilers}
        self._leader = leader
        self._interval = interval
        self._workers = workers
        self._entries: dict[str, _Entry] = {}
        self._heap: list[tuple[float, int, str]] = []
        """(due, a counter that keeps their order, uid). An item is valid only if its entry is due at that time."""
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._parking = Parking(platform.store.changes, self._on_change)
        """The objects that wait for another one. Guarded by the lock."""
        self._changed: deque[str] = deque()
        """Objects that others wait for and that were written since the last look."""
        self._nudge = threading.Event()
        self._written = threading.Event()
        self._stopping = threading.Event()
        self._leading = False
        self._version: int | None = None
        """The newest resource version read from the store; None before the first read."""
        self._last_full = self._last_asked = float("-inf")
        self._errors = Repeats(log)
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def leading(self) -> bool:
        """True while this process reconciles."""
        return self._leading

    def start(self) -> None:
        """Start the loop in a thread of its own."""
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="reconcile")
        self._thread = threading.Thread(target=self._run, name="reconcile-loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the loop: wait until running looks have ended, then release leadership."""
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
            log.warning("leadership was not released, it expires by itself: %s", exc)

    def wake(self, uid: str | None = None) -> None:
        """Look at what was written, or with ``uid`` at this object, which changed on its backend. Any thread may call.

        Does nothing for an object that the loop does not know, or while another gateway leads.
        """
        if uid is not None:
            with self._lock:
                entry = self._entries.get(uid)
                if entry is None:
                    return
                if entry.running:
                    entry.woken = True
                elif entry.failures == 0:  # otherwise it waits: its own failing look may have woken it
                    self._schedule(uid, entry, time.monotonic())
        else:
            self._written.set()
        self._nudge.set()

    def look_at_everything(self) -> None:
        """Look at every known object: something changed that concerns all. Any thread may call."""
        now = time.monotonic()
        with self._lock:
            for uid, entry in self._entries.items():
                self._schedule(uid, entry, now)
        self._nudge.set()

    def _on_change(self, uid: str) -> None:
        """Note a write of an object for which others wait. Must not block: the writing thread calls it."""
        self._changed.append(uid)
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
            except Exception as exc:  # noqa: BLE001  the next look follows in any case
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
            with self._lock:  # running objects stay known: none may be reconciled twice at once
                self._entries = {uid: entry for uid, entry in self._entries.items() if entry.running}
                for entry in self._entries.values():
                    entry.wanted = None
                self._heap.clear()
                self._parking.clear()
            for reconciler in stateful:
                reconciler.stop()

    def _start_all(self, stateful: Sequence[Stateful]) -> None:
        """Start all, or none: the next look tries again."""
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
        """Read what was written and hand what is due to the pool; the seconds until the next object is due."""
        now = time.monotonic()
        if self._written.is_set() or now - self._last_asked >= self._interval:
            self._written.clear()
            self._last_asked = now
            self._take_in(now)
        with self._lock:
            while self._changed:
                self._release(self._changed.popleft(), None, now)
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
                # ``_on_change`` reported this process' own writes already, but not another's.
                self._release(item.uid, item.version, now)
            if full:
                self._last_full = now
                present = {item.uid for item in written}
                for uid in [uid for uid in self._entries if uid not in present]:
                    self._forget(uid)
        self._version = version

    def _consider(self, item: Written, now: float) -> None:
        """Schedule the object if its generation or deletion changed; a written status schedules nothing."""
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
        """Schedule the objects that wait for one that was written. Needs the lock."""
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
        """Reconcile the object no later than ``due``. Needs the lock."""
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
        due, gone = started + LONGEST_BACKOFF, False  # whatever goes wrong below: only a removed object is forgotten
        until: Until | None = None
        try:
            # Read now: it may have been written since it became due.
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
        except Exception as exc:  # noqa: BLE001  logged with its traceback unless it is a RayplaneError
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
                if other is not None and other.version > until.version:  # written during the look at this one
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
        except Exception as unrecorded:  # noqa: BLE001  the failed look is repeated in any case
            self._errors.failed(f"{uid}:record", unrecorded, "the error of %s %s could not be recorded", kind, uid)
        longest = LONGEST_WAIT_FOR_OTHERS if isinstance(exc, Unavailable) else LONGEST_BACKOFF
        return time.monotonic() + min(longest, FIRST_BACKOFF * 2.0 ** min(entry.failures - 1, 10))

    def _record(self, kind: str, uid: str, exc: Exception | None) -> None:
        """Set the object's condition ``Reconciled``: the last look failed, or it no longer does."""
        store = self._platform.store
        with store.transaction():
            if not self._exists(uid):
                return
            obj = store.get_by_uid(uid)
            status = obj.status_copy()
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
