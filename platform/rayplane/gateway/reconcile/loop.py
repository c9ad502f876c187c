"""The leader's one loop: looks at objects that are under way, each in a thread of a pool, with back-off for each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from rayplane.errors import NotFound, RayplaneError, Unavailable
from rayplane.gateway import metrics
from rayplane.gateway.reconcile.leader import Leader
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import by_kind
from rayplane.nouns.base import Object

log = logging.getLogger(__name__)

FULL_SCAN = 30.0
"""Seconds between two looks at every object, whatever its phase; a write brings the next one forward."""
LEAST_BETWEEN_FULL_SCANS = 1.0
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 60.0
LONGEST_WAIT_FOR_OTHERS = 5.0
"""The longest back-off, in seconds, where something that is down may be up again at any moment."""

# Kinds that leave many ended objects behind: between full scans only these phases are looked at.
_ACTIVE: dict[str, Collection[str]] = {
    "Job": ("", "Pending", "Starting", "Running"),
    "PipelineRun": ("", "Pending", "Running"),
}


class Reconciler(Protocol):
    """Makes the objects of one kind as they are wanted."""

    kind: str

    def reconcile(self, obj: Object) -> float | None:
        """Do at most one bounded thing for the object.

        Returns the seconds after which to be asked again, None if it is settled until it is written to. An error is
        recorded on the object, and it is asked again with back-off. Called by one thread at a time for each object.
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

    due: float = 0.0
    seen: tuple[int, datetime | None] | None = None
    running: bool = False
    failures: int = 0
    recorded: bool = False
    """Whether the object's status tells of the failures."""


class Loop:
    """One thread that decides what is due, and a pool that does it, so that a slow cluster stalls only itself."""

    def __init__(
        self,
        platform: Platform,
        reconcilers: Sequence[Reconciler],
        leader: Leader,
        *,
        interval: float = 1.0,
        workers: int = 16,
    ) -> None:
        self._platform = platform
        self._reconcilers = list(reconcilers)
        self._leader = leader
        self._interval = interval
        self._workers = workers
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._nudge = threading.Event()
        self._written = threading.Event()
        self._stopping = threading.Event()
        self._leading = False
        self._last_full = float("-inf")
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

    def wake(self) -> None:
        """Something was written: look now."""
        self._written.set()
        self._nudge.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause = self._interval
            try:
                if self._leader.leads() != self._leading:
                    self._lead(not self._leading)
                if self._leading:
                    pause = self._look()
            except Exception:
                log.exception("a look at the objects failed")
            self._nudge.wait(pause)
            self._nudge.clear()

    def _lead(self, leading: bool) -> None:
        if leading == self._leading:
            return
        log.info("this gateway %s", "leads" if leading else "leads no more")
        stateful = [r for r in self._reconcilers if isinstance(r, Stateful)]
        if leading:
            self._start_all(stateful)
            self._last_full = float("-inf")
        self._leading = leading
        metrics.LEADER.set(leading)
        if not leading:
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
        """Hand every object that is due to the pool; the seconds until the next one will be."""
        now = time.monotonic()
        since = now - self._last_full
        full = since >= FULL_SCAN or (self._written.is_set() and since >= LEAST_BETWEEN_FULL_SCANS)
        if full:
            self._written.clear()
            self._last_full = now
        present: set[str] = set()
        for reconciler in self._reconcilers:
            for obj in self._objects(reconciler.kind, full):
                present.add(obj.metadata.uid)
                self._consider(reconciler, obj, now)
        with self._lock:
            if full:
                gone = [uid for uid, entry in self._entries.items() if uid not in present and not entry.running]
                for uid in gone:
                    del self._entries[uid]
            waiting = [entry.due for entry in self._entries.values() if not entry.running]
        if self._written.is_set():
            waiting.append(self._last_full + LEAST_BETWEEN_FULL_SCANS)
        nearest = min(waiting, default=float("inf")) - time.monotonic()
        return min(self._interval, max(0.05, nearest))

    def _objects(self, kind: str, full: bool) -> Iterator[Object]:
        return self._platform.store.each(kind, phases=None if full else _ACTIVE.get(kind))

    def _consider(self, reconciler: Reconciler, obj: Object, now: float) -> None:
        seen = (obj.metadata.generation, obj.metadata.deleted_at)
        with self._lock:
            entry = self._entries.setdefault(obj.metadata.uid, _Entry(due=now))
            if entry.running or (now < entry.due and entry.seen == seen):
                return
            metrics.RECONCILE_LAG.labels(obj.kind).set(max(0.0, now - entry.due) if entry.due != float("inf") else 0.0)
            entry.running, entry.seen = True, seen
        assert self._pool is not None
        self._pool.submit(self._reconcile, reconciler, obj.metadata.uid, entry)

    def _reconcile(self, reconciler: Reconciler, uid: str, entry: _Entry) -> None:
        started = time.monotonic()
        due = started + LONGEST_BACKOFF  # whatever goes wrong below: forgotten is only what is gone or settled
        try:
            # Read again: the listed object may be older than what the last look at it wrote.
            obj = self._platform.store.get_by_uid(uid)
            again = reconciler.reconcile(obj)
            if entry.recorded:
                self._record(reconciler.kind, uid, None)
            entry.failures, entry.recorded = 0, False
            due = float("inf") if again is None else time.monotonic() + again
        except NotFound as exc:
            due = self._failed(reconciler.kind, uid, entry, exc) if self._exists(uid) else float("inf")
        except Exception as exc:  # noqa: BLE001  logged with its traceback where it is not one of ours
            due = self._failed(reconciler.kind, uid, entry, exc)
        finally:
            metrics.RECONCILE_SECONDS.labels(reconciler.kind).observe(time.monotonic() - started)
            with self._lock:
                entry.due, entry.running = due, False
            if due <= time.monotonic() + self._interval:
                self._nudge.set()

    def _failed(self, kind: str, uid: str, entry: _Entry, exc: Exception) -> float:
        metrics.RECONCILE_ERRORS.labels(kind).inc()
        if isinstance(exc, RayplaneError):
            log.warning("%s %s: %s", kind, uid, exc)
        else:
            log.error("%s %s: an unexpected error", kind, uid, exc_info=exc)
        entry.failures += 1
        try:
            self._record(kind, uid, exc)
            entry.recorded = True
        except Exception:
            log.exception("the error of %s %s could not be recorded", kind, uid)
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
