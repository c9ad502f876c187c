"""The files of a storage root: listed with size and hash, and compared with such a list.

A team's code may put links, pipes and whatever else into its own folder at any moment. So folders are opened one from
the other, over no link, and only regular files are read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydantic import BaseModel, Field

from rayplane.client.backup.archive import parts
from rayplane.client.backup.form import Member, StoredFile
from rayplane.errors import InvalidInput

_PARTIAL = re.compile(r"\..*\.[0-9a-f]{32}")
"""A file's name while it is written (``storage/file.py``)."""
_PACKAGE = re.compile(r"[^/]+/packages/([0-9a-f]{64})\.zip")
_DATABASE = re.compile(r"[^/]+/feast/[^/]+\.db")
_BESIDE = re.compile(r"[^/]+/feast/[^/]+\.db-(wal|shm|journal)")
_LOG = re.compile(r"[^/]+/jobs/[^/]+/driver\.log")
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""It is gone, or a link, or a socket: nothing that the platform wrote."""

Take = Callable[[int, BinaryIO, int], Member]
"""Number of the file, the file, its length now -> what was taken of it."""


class Difference(BaseModel):
    """How a storage root differs from a backup's list of it."""

    checked: int = 0
    missing: list[str] = Field(default_factory=list)
    changed: list[str] = Field(default_factory=list)

    @property
    def is_none(self) -> bool:
        """Whether every file is there as it was."""
        return not self.missing and not self.changed


def listed(root: Path, take: Take | None = None) -> Iterator[StoredFile]:
    """Each file of a root, folder by folder. ``take`` gets every file's content and says its size and hash.

    A package's name is its hash, so without ``take`` it is not read. Databases are left out: they are copied by SQLite.
    A file that goes away meanwhile is left out too.
    """
    number = 0
    for path, folder, name in _walk(root):
        if _DATABASE.fullmatch(path) or _BESIDE.fullmatch(path):
            continue
        with _opened(folder, name) as file:
            if file is None:
                continue
            number += 1
            size = os.fstat(file.fileno()).st_size
            member = f"files/{number:08d}" if take is not None else None
            package = _PACKAGE.fullmatch(path)
            if take is not None:
                taken = take(number, file, size)
            elif package:
                taken = Member(size=size, sha256=package[1])
            else:
                taken = measured(file, size)
            grows = _LOG.fullmatch(path) is not None
        yield StoredFile(path=path, size=taken.size, sha256=taken.sha256, grows=grows, member=member)


def databases(root: Path) -> Iterator[str]:
    """Paths of the databases in a root: Feast's, where teams see only their own folders."""
    for path, folder, name in _walk(root):
        if _DATABASE.fullmatch(path) and stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            yield path


def compared(root: Path, file: StoredFile) -> str | None:
    """``missing`` or ``changed``; None if the file is there as it was, or is a log that went on from there."""
    with _found(root, file.path) as stream:
        if stream is None:
            return "missing"
        size = os.fstat(stream.fileno()).st_size
        if size < file.size or (size > file.size and not file.grows):
            return "changed"
        return None if measured(stream, file.size).sha256 == file.sha256 else "changed"


def measured(file: BinaryIO, length: int) -> Member:
    """Size and hash of the first ``length`` bytes."""
    digest, size = hashlib.sha256(), 0
    for part in parts(file, length):
        digest.update(part)
        size += len(part)
    return Member(size=size, sha256=digest.hexdigest())


def _walk(root: Path) -> Iterator[tuple[str, int, str]]:
    """(path, the open folder that it is in, name) of all but folders and what is being written."""
    if not root.is_dir():
        return
    # The root itself may be a link; nothing below it is followed.
    for base, folders, names, folder in os.fwalk(root.resolve(), onerror=_unless_gone):
        folders.sort()
        below = PurePosixPath(base).relative_to(root.resolve())
        for name in sorted(names):
            if not _PARTIAL.fullmatch(name):
                yield str(below / name), folder, name


@contextmanager
def _opened(folder: int, name: str) -> Iterator[BinaryIO | None]:
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as exc:
        if exc.errno not in _NO_FILE:
            raise _unreadable(name, exc) from exc
        yield None
        return
    with os.fdopen(descriptor, "rb") as file:
        yield file if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


@contextmanager
def _found(root: Path, path: str) -> Iterator[BinaryIO | None]:
    *above, name = PurePosixPath(path).parts
    folder = -1
    try:
        try:
            folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for part in above:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = below
        except OSError as exc:
            if exc.errno not in _NO_FILE:
                raise _unreadable(path, exc) from exc
            yield None
            return
        with _opened(folder, name) as file:
            yield file
    finally:
        if folder >= 0:
            os.close(folder)


def _unless_gone(exc: OSError) -> None:
    if exc.errno not in _NO_FILE:
        raise _unreadable(str(exc.filename), exc) from exc


def _unreadable(path: str, exc: OSError) -> InvalidInput:
    return InvalidInput(
        f"'{path}' of the storage root can't be read: {exc.strerror}.",
        remedy="Run this as the user that the platform runs as, or one who may read all of it.",
    )
