"""Follow the logs of running jobs into the storage root: a thread each; a restart leaves neither a gap nor a repeat."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from rayplane.errors import NotFound, RayplaneError, Unavailable
from rayplane.gateway.ray_rest import RayRest
from rayplane.storage.root import Storage

log = logging.getLogger(__name__)

_FLUSH_BYTES = 256 * 1024
_FLUSH_SECONDS = 0.1
_EARLY, _EARLY_PAUSE, _EARLY_BYTES = 5.0, 0.1, 256 * 1024
"""For so many seconds a new log is asked for, whole, after each pause while it is no longer than this: Ray's own tail
looks at it once a second (2.60), and of most jobs the first lines are what a user waits for."""
_CHUNK = 2**20
_WHOLE = 16 * 2**20
"""Up to this many bytes an ended job's log is asked for at once, at four times as much memory: Ray takes 4 s to
say that a followed one ended."""


def header(number: int, submission_id: str) -> str:
    """The line that begins an attempt after the first in a job's log."""
    return f"--- rayplane: attempt {number} ({submission_id}) ---\n"


@dataclass
class _Follower:
    ray: RayRest
    path: str
    number: int
    submission_id: str
    early: bool = False
    abandoned: threading.Event = field(default_factory=threading.Event)
    finished: bool = False
    come: int = 0
    """How many bytes of it have ever come, kept or not: what comes again is not counted again."""
    heard: float = 0.0
    """When more than that came last, on the monotonic clock."""
    long: bool = False
    """Whether it is too long to be asked for at once."""
    problem: str = ""
    thread: threading.Thread | None = None


class LogFollowers:
    """The followers of this process, by submission id. Thread-safe."""

    def __init__(self, storage: Storage, *, kept: Callable[[str], None] = lambda submission_id: None) -> None:
        self._storage = storage
        self._kept_more = kept
        """Called with the attempt's submission id whenever more of its log is kept."""
        self._lock = threading.Lock()
        self._followers: dict[str, _Follower] = {}
        self._closed = False

    def open(self) -> None:
        """Let followers start (again)."""
        with self._lock:
            self._closed = False

    def follow(self, ray: RayRest, *, path: str, number: int, submission_id: str, early: bool = True) -> None:
        """Follow this attempt's log into the file at ``path``, if that is not done already. Nothing while closed.

        ``early``: it may have begun just now, so that its first lines are waited for.
        """
        with self._lock:
            if self._closed or submission_id in self._followers:
                return
            follower = _Follower(ray, path, number, submission_id, early=early)
            self._followers[submission_id] = follower
            follower.thread = threading.Thread(
                target=self._run, args=(follower,), name=f"log-{submission_id[:12]}", daemon=True
            )
            follower.thread.start()

    def finished(self, submission_id: str) -> bool:
        """Whether all of the attempt's log is kept."""
        with self._lock:
            follower = self._followers.get(submission_id)
            return follower is not None and follower.finished

    def complete(self, ray: RayRest, *, path: str, number: int, submission_id: str) -> bool:
        """Bring in the rest of the log of an attempt that ended; False while that takes longer than one call.

        Raises NotFound if Ray does not know the attempt, Unavailable if it does not answer.
        """
        if self.finished(submission_id):
            return True
        if self._is_long(submission_id):
            return False
        kept = self._storage.size(path) if self._storage.exists(path) else 0
        whole = ray.logs(submission_id, most=_WHOLE) if kept <= _WHOLE else None
        if whole is None:
            self.follow(ray, path=path, number=number, submission_id=submission_id, early=False)
            self._note_long(submission_id)
            return False
        self.abandon(submission_id)
        follower = _Follower(ray, path, number, submission_id)
        text = whole.encode()
        if text:
            rest = bytearray(text[self._kept(follower) :])
            self._flush(follower, rest)
        follower.finished = True
        with self._lock:
            self._followers[submission_id] = follower
        return True

    def _is_long(self, submission_id: str) -> bool:
        with self._lock:
            follower = self._followers.get(submission_id)
            return follower is not None and follower.long

    def _note_long(self, submission_id: str) -> None:
        with self._lock:
            follower = self._followers.get(submission_id)
            if follower is not None:  # else this process follows no more
                follower.long, follower.early = True, False

    def comes(self, submission_id: str, *, within: timedelta) -> bool:
        """Whether something of the attempt's log came within this time, kept already or not."""
        with self._lock:
            follower = self._followers.get(submission_id)
            return follower is not None and time.monotonic() - follower.heard < within.total_seconds()

    def problem(self, submission_id: str) -> str:
        """Why the log is not being kept just now; empty if it is."""
        with self._lock:
            follower = self._followers.get(submission_id)
            return follower.problem if follower is not None else ""

    def abandon(self, submission_id: str) -> None:
        """Follow it no more, and forget it: what has come is kept. Blocks until that is written."""
        with self._lock:
            follower = self._followers.pop(submission_id, None)
        if follower is not None:
            follower.abandoned.set()
            if follower.thread is not None:
                follower.thread.join()

    def stop(self) -> None:
        """Leave all, and start none until opened: another process goes on where these ended."""
        with self._lock:
            self._closed = True
            ids = list(self._followers)
            for follower in self._followers.values():
                follower.abandoned.set()
        for submission_id in ids:
            self.abandon(submission_id)

    def _run(self, follower: _Follower) -> None:
        while not follower.abandoned.is_set():
            try:
                if follower.early:
                    self._copy_early(follower)
                    follower.early = False
                    continue  # it may have been abandoned: the tail is slow to open and to leave
                if self._copy(follower):
                    follower.finished, follower.problem = True, ""
                    return
            except (NotFound, Unavailable) as exc:
                follower.problem = str(exc)
            except RayplaneError as exc:
                follower.problem = str(exc)
                log.warning("the log of %s is not kept: %s", follower.submission_id, exc)
            except Exception as exc:
                follower.problem = f"{type(exc).__name__}: {exc}"
                log.exception("the log of %s is not kept", follower.submission_id)
            follower.early = False
            follower.abandoned.wait(1.0)

    def _copy_early(self, follower: _Follower) -> None:
        """Keep what comes in the first seconds."""
        deadline = time.monotonic() + _EARLY
        kept = self._kept(follower)
        while follower.early and time.monotonic() < deadline and not follower.abandoned.is_set():
            whole = follower.ray.logs(follower.submission_id, most=_EARLY_BYTES)
            if whole is None:
                return
            data = whole.encode()
            if len(data) > max(kept, follower.come):
                follower.come, follower.heard = len(data), time.monotonic()
                self._flush(follower, bytearray(data[kept:]))
                kept = len(data)
            follower.abandoned.wait(_EARLY_PAUSE)

    def _copy(self, follower: _Follower) -> bool:
        """Append what is not kept yet, to the end; False if abandoned before."""
        skip = self._kept(follower)
        come = 0
        pending = bytearray()
        flushed = time.monotonic()
        try:
            for text in follower.ray.logs_tail(follower.submission_id):
                follower.problem = ""
                data = text.encode()
                come += len(data)
                if come > follower.come:
                    follower.come, follower.heard = come, time.monotonic()
                dropped = min(skip, len(data))
                skip -= dropped
                pending += data[dropped:]
                now = time.monotonic()
                if pending and (not text or len(pending) >= _FLUSH_BYTES or now - flushed >= _FLUSH_SECONDS):
                    self._flush(follower, pending)
                    flushed = now
                if follower.abandoned.is_set():
                    return False
            return True
        finally:
            self._flush(follower, pending)

    def _flush(self, follower: _Follower, pending: bytearray) -> None:
        if pending:
            self._storage.append(follower.path, bytes(pending))
            pending.clear()
            self._kept_more(follower.submission_id)

    def _kept(self, follower: _Follower) -> int:
        """How many bytes of this attempt's log are in the file; begins its part of the file if there is none."""
        size = self._storage.size(follower.path) if self._storage.exists(follower.path) else 0
        if follower.number == 1:
            return size
        mark = header(follower.number, follower.submission_id).encode()
        found = self._find(follower.path, mark, size)
        if found is not None:
            return size - found - len(mark)
        ends_a_line = size == 0 or self._storage.read_from(follower.path, size - 1, 1) == b"\n"
        self._storage.append(follower.path, (b"" if ends_a_line else b"\n") + mark)
        return 0

    def _find(self, path: str, mark: bytes, size: int) -> int | None:
        """Where the mark begins; sought from the end, where it is."""
        end = size
        while end > 0:
            start = max(0, end - _CHUNK)
            # The chunks overlap by the mark's length, so that one which lies across two is found.
            at = self._storage.read_from(path, start, end - start + len(mark)).rfind(mark)
            if at >= 0:
                return start + at
            end = start
        return None
