"""Follow the logs of jobs into the storage root, byte for byte: a thread each; a restart leaves no gap, no repeat."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from rayplane.errors import Failed, NotFound, RayplaneError, Unavailable
from rayplane.gateway.ray_rest import RayRest
from rayplane.repeats import Repeats
from rayplane.storage.root import Storage

log = logging.getLogger(__name__)

_SHORTEST, _LONGEST = 0.1, 2.0
"""Seconds between two looks at a log: the first while it is young or grows; they double while nothing comes."""
_YOUNG = 5.0
"""For so many seconds a log is young: most jobs end, or say their first words, within them."""
_SHARE, _REST = 4.0, 30.0
"""A look that took long is followed by so many times its seconds of rest, up to so many seconds: where Ray can't send
the new part of a log alone, it sends all of it."""
_FLUSH_BYTES = 256 * 1024
_CHUNK = 2**20
_LOOK, _LEAVE = 1.0, 2.0
"""Seconds that a look at an ended job waits for the rest of its log, and that followers get to end."""


def header(number: int, submission_id: str) -> str:
    """The line that begins an attempt after the first in a job's log."""
    return f"--- rayplane: attempt {number} ({submission_id}) ---\n"


@dataclass
class _Follower:
    ray: RayRest
    path: str
    number: int
    submission_id: str
    abandoned: threading.Event = field(default_factory=threading.Event)
    ended: bool = False
    """Whether the attempt has ended, so that the next look takes what is left."""
    hurry: threading.Event = field(default_factory=threading.Event)
    """Set to look again at once."""
    looked: threading.Event = field(default_factory=threading.Event)
    """Set once a look that began after the attempt's end is over, well or not."""
    finished: bool = False
    begins: int | None = None
    """Where the attempt's log begins in the file; None before the first look."""
    furthest: int = 0
    """How many bytes of it have ever come, kept or not: what comes again is not counted again."""
    heard: float = float("-inf")
    """When more than that came last, on the monotonic clock."""
    error: RayplaneError | None = None
    """Why the last look failed; None if it went well."""
    thread: threading.Thread | None = None
    writing: threading.Lock = field(default_factory=threading.Lock)
    left: bool = False
    """Whether it may write no more. Guarded by ``writing``."""


_NOT_KEPT = "the log of %s is not kept"


class LogFollowers:
    """The followers of this process, by submission id. Thread-safe."""

    def __init__(self, storage: Storage, *, kept: Callable[[str], None] = lambda submission_id: None) -> None:
        self._storage = storage
        self._kept_more = kept
        """Called with the attempt's submission id whenever more of its log is kept."""
        self._lock = threading.Lock()
        self._followers: dict[str, _Follower] = {}
        self._errors = Repeats(log)
        self._closed = False

    def open(self) -> None:
        """Let followers start (again)."""
        with self._lock:
            self._closed = False

    def follow(self, ray: RayRest, *, path: str, number: int, submission_id: str) -> None:
        """Follow this attempt's log into the file at ``path``, from now on by ``ray``. Nothing while closed."""
        with self._lock:
            if self._closed:
                return
            known = self._followers.get(submission_id)
            if known is not None:
                known.ray = ray
                return
            follower = _Follower(ray, path, number, submission_id)
            follower.thread = threading.Thread(
                target=self._run, args=(follower,), name=f"log-{submission_id[:12]}", daemon=True
            )
            follower.thread.start()
            self._followers[submission_id] = follower

    def finished(self, submission_id: str) -> bool:
        """Whether all of the attempt's log is kept."""
        with self._lock:
            follower = self._followers.get(submission_id)
            return follower is not None and follower.finished

    def complete(self, ray: RayRest, *, path: str, number: int, submission_id: str) -> bool:
        """Bring in the rest of the log of an attempt that ended; False while that takes longer than one look.

        Raises NotFound if Ray does not know the attempt, Unavailable if it does not answer.
        """
        self.follow(ray, path=path, number=number, submission_id=submission_id)
        with self._lock:
            follower = self._followers.get(submission_id)
        if follower is None:
            return False  # this process follows no more
        follower.ended = True
        follower.hurry.set()
        if follower.looked.wait(_LOOK):
            error = follower.error
            if error is not None:
                follower.looked.clear()
                raise error
        return follower.finished

    def comes(self, submission_id: str, *, within: timedelta) -> bool:
        """Whether something of the attempt's log came within this time."""
        with self._lock:
            follower = self._followers.get(submission_id)
            return follower is not None and time.monotonic() - follower.heard < within.total_seconds()

    def problem(self, submission_id: str) -> str:
        """Why the log is not being kept just now; empty if it is."""
        with self._lock:
            follower = self._followers.get(submission_id)
            return str(follower.error or "") if follower is not None else ""

    def abandon(self, submission_id: str) -> None:
        """Follow it no more, and forget it: what has come is kept, and nothing after this call.

        Blocks until that is written, but no longer than a Ray that does not answer may hold a look up.
        """
        with self._lock:
            follower = self._followers.pop(submission_id, None)
        if follower is not None:
            _leave([follower])

    def stop(self) -> None:
        """Leave all, and start none until opened: another process goes on where these ended."""
        with self._lock:
            self._closed = True
            followers = list(self._followers.values())
            self._followers.clear()
        _leave(followers)

    def _run(self, follower: _Follower) -> None:
        young, pause = time.monotonic() + _YOUNG, _SHORTEST
        while not follower.abandoned.is_set():
            last = follower.ended
            began = time.monotonic()
            come, follower.error = self._look(follower)
            if last:
                follower.finished = follower.error is None and not follower.abandoned.is_set()
                follower.looked.set()
                if follower.finished:
                    return
            now = time.monotonic()
            pause = _SHORTEST if come or now < young else min(_LONGEST, 2 * pause)
            follower.hurry.wait(max(pause, min(_REST, _SHARE * (now - began))))
            follower.hurry.clear()

    def _look(self, follower: _Follower) -> tuple[int, RayplaneError | None]:
        """Append what is not kept yet; how many bytes came, and what went wrong."""
        before = follower.furthest
        pending = bytearray()
        try:
            try:
                self._read(follower, pending)
            finally:
                self._flush(follower, pending)  # the last words of a head that broke off count as well
        except RayplaneError as exc:
            if not isinstance(exc, NotFound | Unavailable):
                self._errors.failed(follower.submission_id, exc, _NOT_KEPT, follower.submission_id, traceback=False)
            return follower.furthest - before, exc
        except Exception as exc:  # noqa: BLE001  logged with its traceback the first time
            self._errors.failed(follower.submission_id, exc, _NOT_KEPT, follower.submission_id)
            return follower.furthest - before, Failed(f"{type(exc).__name__}: {exc}")
        self._errors.works(follower.submission_id)
        return follower.furthest - before, None

    def _read(self, follower: _Follower, pending: bytearray) -> None:
        at = self._kept(follower)
        for data in follower.ray.log_from(follower.submission_id, at):
            at += len(data)
            pending += data
            # Of a log that Ray sends whole, the part that is kept already comes as empty pieces.
            if at > follower.furthest or (not data and follower.ended):
                follower.furthest, follower.heard = max(at, follower.furthest), time.monotonic()
            if len(pending) >= _FLUSH_BYTES:
                self._flush(follower, pending)
            if follower.abandoned.is_set():
                return

    def _flush(self, follower: _Follower, pending: bytearray) -> None:
        if pending:
            appended = self._append(follower, bytes(pending))
            pending.clear()
            if appended:
                self._kept_more(follower.submission_id)

    def _append(self, follower: _Follower, data: bytes) -> bool:
        """Write to the end of the file; False, and nothing written, once it is another follower's to write."""
        with follower.writing:
            if follower.left:
                return False
            self._storage.append(follower.path, data)
        return True

    def _kept(self, follower: _Follower) -> int:
        """How many bytes of this attempt's log are in the file; begins its part of the file if there is none."""
        size = self._storage.size(follower.path) if self._storage.exists(follower.path) else 0
        if follower.begins is None or size < follower.begins:  # the job may have cut its own log
            follower.begins = self._begins(follower, size)
            size = max(size, follower.begins)
        return max(0, size - follower.begins)

    def _begins(self, follower: _Follower, size: int) -> int:
        """Where this attempt's log begins in a file of ``size`` bytes; marks its begin if that was not done yet."""
        if follower.number == 1:
            return 0
        mark = header(follower.number, follower.submission_id).encode()
        at = self._find(follower.path, mark, size)
        if at is not None:
            return at + len(mark)
        ends_a_line = size == 0 or self._storage.read_from(follower.path, size - 1, 1) == b"\n"
        self._append(follower, mark if ends_a_line else b"\n" + mark)
        return size + len(mark) + (not ends_a_line)

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


def _leave(followers: Sequence[_Follower]) -> None:
    """Tell them to end, wait a moment, and let none write after that."""
    for follower in followers:
        follower.abandoned.set()
        follower.hurry.set()
    deadline = time.monotonic() + _LEAVE
    for follower in followers:
        if follower.thread is not None:
            follower.thread.join(max(0.0, deadline - time.monotonic()))
        with follower.writing:
            follower.left = True
