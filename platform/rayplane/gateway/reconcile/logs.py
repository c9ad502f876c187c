"""Copy the logs of running jobs into the storage root, a thread each; a restart leaves no gap and no repeat."""

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
"""Seconds between two looks at a log: the first while it is young or grows; doubled while nothing arrives."""
_YOUNG = 5.0
"""Seconds for which a log is young: most jobs end, or write their first lines, within them."""
_SHARE, _REST = 4.0, 30.0
"""A long look is followed by a rest of ``_SHARE`` times its duration, at most ``_REST`` seconds: a Ray that can't send
only the new part of a log sends all of it."""
_FLUSH_BYTES = 256 * 1024
_CHUNK = 2**20
_LOOK, _LEAVE = 1.0, 2.0
"""Seconds that a look at an ended job waits for the rest of its log, and that followers have to end."""


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
    """True once the attempt has ended, so that the next look takes the rest."""
    hurry: threading.Event = field(default_factory=threading.Event)
    """Set to look again at once."""
    looked: threading.Event = field(default_factory=threading.Event)
    """Set once a look that began after the attempt's end is over, successful or not."""
    finished: bool = False
    begins: int | None = None
    """Where the attempt's log begins in the file; None before the first look."""
    furthest: int = 0
    """Bytes of the log that ever arrived, kept or not; repeated ones do not count again."""
    heard: float = float("-inf")
    """When more last arrived, on the monotonic clock."""
    error: RayplaneError | None = None
    """The error of the last look; None if it succeeded."""
    thread: threading.Thread | None = None
    writing: threading.Lock = field(default_factory=threading.Lock)
    left: bool = False
    """True once it must not write any more. Guarded by ``writing``."""


_NOT_KEPT = "the log of %s is not kept"


class LogFollowers:
    """Log followers of this process, by submission id. Thread-safe."""

    def __init__(self, storage: Storage, *, kept: Callable[[str], None] = lambda submission_id: None) -> None:
        self._storage = storage
        self._on_kept = kept
        """Called with the attempt's submission id whenever more of its log is kept."""
        self._lock = threading.Lock()
        self._followers: dict[str, _Follower] = {}
        self._errors = Repeats(log)
        self._closed = False

    def open(self) -> None:
        """Allow followers to start."""
        with self._lock:
            self._closed = False

    def follow(self, ray: RayRest, *, path: str, number: int, submission_id: str) -> None:
        """Copy this attempt's log into the file at ``path``, from now on through ``ray``. Does nothing while closed."""
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
        """True if all of the attempt's log is kept."""
        with self._lock:
            follower = self._followers.get(submission_id)
            return follower is not None and follower.finished

    def complete(self, ray: RayRest, *, path: str, number: int, submission_id: str) -> bool:
        """Take in the rest of the log of an attempt that ended; False if that takes longer than one look.

        Raises NotFound if Ray does not know the attempt, Unavailable if it does not answer.
        """
        self.follow(ray, path=path, number=number, submission_id=submission_id)
        with self._lock:
            follower = self._followers.get(submission_id)
        if follower is None:
            return False  # this process follows no logs any more
        follower.ended = True
        follower.hurry.set()
        if follower.looked.wait(_LOOK):
            error = follower.error
            if error is not None:
                follower.looked.clear()
                raise error
        return follower.finished

    def comes(self, submission_id: str, *, within: timedelta) -> bool:
        """True if a part of the attempt's log arrived within this time."""
        with self._lock:
            follower = self._followers.get(submission_id)
            return follower is not None and time.monotonic() - follower.heard < within.total_seconds()

    def problem(self, submission_id: str) -> str:
        """The reason why the log is not being kept now; empty if it is."""
        with self._lock:
            follower = self._followers.get(submission_id)
            return str(follower.error or "") if follower is not None else ""

    def abandon(self, submission_id: str) -> None:
        """Stop following the log: what has arrived is kept, and nothing after this call.

        Blocks until that is written, but only briefly if Ray does not answer.
        """
        with self._lock:
            follower = self._followers.pop(submission_id, None)
        if follower is not None:
            _leave([follower])

    def stop(self) -> None:
        """Stop all followers and start none until opened; another process continues where these ended."""
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
            arrived, follower.error = self._fetch(follower)
            if last:
                follower.finished = follower.error is None and not follower.abandoned.is_set()
                follower.looked.set()
                if follower.finished:
                    return
            now = time.monotonic()
            pause = _SHORTEST if arrived or now < young else min(_LONGEST, 2 * pause)
            follower.hurry.wait(max(pause, min(_REST, _SHARE * (now - began))))
            follower.hurry.clear()

    def _fetch(self, follower: _Follower) -> tuple[int, RayplaneError | None]:
        """Append what is not kept yet; (number of bytes that arrived, the error if there was one)."""
        before = follower.furthest
        pending = bytearray()
        try:
            try:
                self._read(follower, pending)
            finally:
                self._flush(follower, pending)  # the last bytes before a broken connection are kept as well
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
        at = self._kept_bytes(follower)
        for data in follower.ray.log_from(follower.submission_id, at):
            at += len(data)
            pending += data
            # Where Ray sends the whole log, the part that is kept already arrives as empty pieces.
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
                self._on_kept(follower.submission_id)

    def _append(self, follower: _Follower, data: bytes) -> bool:
        """Append to the file; False, and nothing written, once another follower may write it."""
        with follower.writing:
            if follower.left:
                return False
            self._storage.append(follower.path, data)
        return True

    def _kept_bytes(self, follower: _Follower) -> int:
        """Bytes of this attempt's log that are in the file; begins its part of the file if there is none."""
        size = self._storage.size(follower.path) if self._storage.exists(follower.path) else 0
        if follower.begins is None or size < follower.begins:  # the job may have truncated its own log
            follower.begins = self._begins(follower, size)
            size = max(size, follower.begins)
        return max(0, size - follower.begins)

    def _begins(self, follower: _Follower, size: int) -> int:
        """Offset of this attempt's log in a file of ``size`` bytes; writes its header line if it is missing."""
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
        """Offset of the mark, searched from the end of the file."""
        end = size
        while end > 0:
            start = max(0, end - _CHUNK)
            # The chunks overlap by the mark's length, to find a mark that lies across two.
            at = self._storage.read_from(path, start, end - start + len(mark)).rfind(mark)
            if at >= 0:
                return start + at
            end = start
        return None


def _leave(followers: Sequence[_Follower]) -> None:
    """Have followers end, wait a moment, and let none write after that."""
    for follower in followers:
        follower.abandoned.set()
        follower.hurry.set()
    deadline = time.monotonic() + _LEAVE
    for follower in followers:
        if follower.thread is not None:
            follower.thread.join(max(0.0, deadline - time.monotonic()))
        with follower.writing:
            follower.left = True
