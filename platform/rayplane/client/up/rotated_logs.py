"""Rotate logs that other processes keep open for appending, and that therefore can't simply be renamed.

The log's content is copied to ``<log>.1`` (the former ``.1`` becomes ``.2``, and so on), then removed from the log's
beginning while the writers go on appending. On file systems that can do so (ext4, xfs) no byte is lost or repeated. On
others the log is truncated: bytes written between the last copy and that call are lost, as a rule those of
microseconds. Of a log that has grown to several times its limit, the oldest bytes are left out.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

_COLLAPSE_RANGE = 0x08
"""Linux' FALLOC_FL_COLLAPSE_RANGE: removes whole blocks from a file, at once for all processes that have it open."""
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_COPY_BYTES = 2**20
_CATCH_UPS = 2
"""Number of times that what was written during a copy is copied too, before a log is truncated."""

Cut = Callable[[int, int], bool]


def rotated(log: Path, number: int = 1) -> Path:
    """Path of the part that was cut off ``number`` rotations ago."""
    return log.with_name(f"{log.name}.{number}")


def partial(log: Path) -> Path:
    """Path of the copy under way, which exists only during a rotation."""
    return log.with_name(f"{log.name}.partial")


def collapse(descriptor: int, length: int) -> bool:
    """Remove ``length`` bytes (whole blocks) from a file's beginning; False if its file system can't."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is None:
        return False
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(descriptor, _COLLAPSE_RANGE, 0, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number))


def rotate(
    log: Path, *, most: int, kept: int, cut: Cut = collapse, stopping: Callable[[], bool] = lambda: False
) -> bool:
    """Rotate a log that has more than ``most`` bytes, keeping ``kept`` parts; True if it was rotated.

    A team's code may write the log, so neither its size nor its speed is trusted: a part gets at most ``2 * most``
    bytes of what is cut off, the last ones, and says how many were left out. Gives up, with the log unchanged, once
    ``stopping`` returns True. Raises OSError, such as for a full disk; then too the log is unchanged and the copy is
    deleted.
    """
    _finish_interrupted(log, kept)
    try:
        descriptor = os.open(log, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(descriptor).st_size <= most:
            return False
        _cut_off(descriptor, partial(log), 2 * most, cut, stopping)
    except _Stopping:
        return False
    finally:
        os.close(descriptor)
    _shift(log, kept)
    return True


class _Stopping(Exception):
    """Raised when a rotation gives up since its process is stopping."""


def _finish_interrupted(log: Path, kept: int) -> None:
    """Finish an interrupted rotation: keep its copy as a part, since the log may have been cut already."""
    left = partial(log)
    if left.exists():
        _shift(log, kept)


def _cut_off(descriptor: int, copy: Path, room: int, cut: Cut, stopping: Callable[[], bool]) -> None:
    block = os.fstatvfs(descriptor).f_bsize
    # The last byte stays: a file can't be cut up to its end.
    whole = (os.fstat(descriptor).st_size - 1) // block * block
    try:
        target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Not all the room: without a cut, the log's end is copied too.
            room -= _copy_end(descriptor, 0, target, whole, room * 3 // 4, stopping)
            if whole and cut(descriptor, whole):
                return
            at = whole
            for _ in range(_CATCH_UPS):  # processes write during the copy; a fast one is never caught up with
                size = os.fstat(descriptor).st_size
                if size <= at:
                    break
                room -= _copy_end(descriptor, at, target, size, room, stopping)
                at = size
            os.ftruncate(descriptor, 0)
        finally:
            os.close(target)
    except (OSError, _Stopping):
        copy.unlink(missing_ok=True)  # the log was not cut, since the cut comes last
        raise


def _copy_end(source: int, begin: int, target: int, end: int, room: int, stopping: Callable[[], bool]) -> int:
    """Copy the last ``room`` bytes between two offsets, after a line about those left out; return the bytes copied."""
    first = max(begin, end - room)
    if first > begin:
        _write(target, b"[%d bytes were left out here: the log grew faster than it is rotated]\n" % (first - begin))
    at = first
    while at < end:
        if stopping():
            raise _Stopping
        piece = os.pread(source, min(_COPY_BYTES, end - at), at)
        if not piece:
            break
        _write(target, piece)
        at += len(piece)
    return at - first


def _write(target: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(target, left) :]


def _shift(log: Path, kept: int) -> None:
    for number in range(kept, 1, -1):
        if rotated(log, number - 1).exists():
            rotated(log, number - 1).replace(rotated(log, number))
    partial(log).replace(rotated(log))
