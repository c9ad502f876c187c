"""Bound logs that other processes append to through descriptors of their own, which nobody can turn to another file.

What a log holds is copied to ``<log>.1`` (what was there becomes ``.2``, and so on), then its beginning is cut off
under the writers, who go on at its end. Where the file system cuts (ext4, xfs) no byte is lost or told twice. Elsewhere
the log is truncated: what is written between the last copied byte and that call, some microseconds, is lost.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

_COLLAPSE_RANGE = 0x08
"""Linux' FALLOC_FL_COLLAPSE_RANGE: takes whole blocks out of a file, at once for all who have it open."""
_CANNOT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_PIECE = 2**20

Cut = Callable[[int, int], bool]


def rotated(log: Path, number: int = 1) -> Path:
    """Where the part of a log is that was cut off so many rotations ago."""
    return log.with_name(f"{log.name}.{number}")


def partial(log: Path) -> Path:
    """The copy under way; it is there while a rotation is."""
    return log.with_name(f"{log.name}.partial")


def collapse(descriptor: int, length: int) -> bool:
    """Cut so many bytes, whole blocks, off the beginning of a file; False where its file system can't."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is None:
        return False
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(descriptor, _COLLAPSE_RANGE, 0, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number))


def rotate(log: Path, *, most: int, kept: int, cut: Cut = collapse) -> bool:
    """Cut a log down if it has more than ``most`` bytes, and keep ``kept`` parts of it; whether that was done.

    Raises OSError, such as for a full disk: the log then is as it was, and what had been copied is taken away.
    """
    _finish(log, kept)
    try:
        descriptor = os.open(log, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(descriptor).st_size <= most:
            return False
        _cut_off(descriptor, partial(log), cut)
    finally:
        os.close(descriptor)
    _shift(log, kept)
    return True


def _finish(log: Path, kept: int) -> None:
    """End a rotation that was interrupted: by what it had copied, the log may have been cut already."""
    left = partial(log)
    if left.exists():
        _shift(log, kept)


def _cut_off(descriptor: int, copy: Path, cut: Cut) -> None:
    block = os.fstatvfs(descriptor).f_bsize
    # The last byte stays: a file can't be cut up to its end.
    whole = (os.fstat(descriptor).st_size - 1) // block * block
    try:
        target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            at = _copy(descriptor, 0, target, whole)
            if whole and cut(descriptor, whole):
                return
            while (size := os.fstat(descriptor).st_size) > at:  # until nobody has written while it was copied
                at = _copy(descriptor, at, target, size)
            os.ftruncate(descriptor, 0)
        finally:
            os.close(target)
    except OSError:
        copy.unlink(missing_ok=True)  # the log was not cut: that is the last thing done
        raise


def _copy(source: int, begin: int, target: int, end: int) -> int:
    at = begin
    while at < end:
        piece = os.pread(source, min(_PIECE, end - at), at)
        if not piece:
            break
        left = memoryview(piece)
        while left:
            left = left[os.write(target, left) :]
        at += len(piece)
    return at


def _shift(log: Path, kept: int) -> None:
    for number in range(kept, 1, -1):
        if rotated(log, number - 1).exists():
            rotated(log, number - 1).replace(rotated(log, number))
    partial(log).replace(rotated(log))
