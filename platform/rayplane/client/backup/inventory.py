"""List the files of a storage root with size and hash, and compare a root with such a list.

A team's code may put links, pipes and the like into its own folder at any moment. So each folder is opened relative to
its parent without following links, and only regular files are read.
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
"""Name of a file that is still being written (``storage/file.py``)."""
_PACKAGE = re.compile(r"[^/]+/packages/([0-9a-f]{64})\.zip")
_DATABASE = re.compile(r"[^/]+/feast/[^/]+\.db")
_BESIDE = re.compile(r"[^/]+/feast/[^/]+\.db-(wal|shm|journal)")
_LOG = re.compile(r"[^/]+/jobs/[^/]+/driver\.log")
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""Errors for a path that is gone, a link or a socket: the platform wrote no file there, or it was deleted."""

Take = Callable[[int, BinaryIO, int], Member]
"""Called with a file's number, the file and its present length; returns size and hash of the part that it took."""


class Difference(BaseModel):
    """Files in which a storage root differs from a backup's list of it."""

    checked: int = 0
    missing: list[str] = Field(default_factory=list)
    changed: list[str] = Field(default_factory=list)

    @property
    def is_none(self) -> bool:
        """True if every file is there, unchanged."""
        return not self.missing and not self.changed


def list_files(root: Path, take: Take | None = None) -> Iterator[StoredFile]:
    """Each file of a root, folder by folder, with its size and hash, which ``take``, if given, reads from the content.

    Without ``take`` packages are not read, since a package's name is its hash. Databases are left out: SQLite copies
    them. So are files that are deleted meanwhile.
    """
    number = 0
    for path, folder, name in _walk(root):
        if _DATABASE.fullmatch(path) or _BESIDE.fullmatch(path):
            continue
        with _open_regular(folder, name) as file:
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
                taken = measure(file, size)
            grows = _LOG.fullmatch(path) is not None
        yield StoredFile(path=path, size=taken.size, sha256=taken.sha256, grows=grows, member=member)


def databases(root: Path) -> Iterator[tuple[str, int, str]]:
    """Databases in a root: Feast's, on backends where a team sees only its own folder.

    Yields each one's path, the descriptor of its folder and its name, and looks at the next one only when asked for it.
    """
    for path, folder, name in _walk(root):
        if not _DATABASE.fullmatch(path):
            continue
        try:
            regular = stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            continue
        if regular:
            yield path, folder, name


def compare(root: Path, file: StoredFile) -> str | None:
    """Compare a file with its entry: ``missing``, ``changed``, or None if it is unchanged or a log that has grown."""
    with _open_below(root, file.path) as stream:
        if stream is None:
            return "missing"
        size = os.fstat(stream.fileno()).st_size
        if size < file.size or (size > file.size and not file.grows):
            return "changed"
        return None if measure(stream, file.size).sha256 == file.sha256 else "changed"


def measure(file: BinaryIO, length: int) -> Member:
    """Size and hash of the first ``length`` bytes."""
    digest, size = hashlib.sha256(), 0
    for part in parts(file, length):
        digest.update(part)
        size += len(part)
    return Member(size=size, sha256=digest.hexdigest())


def _walk(root: Path) -> Iterator[tuple[str, int, str]]:
    """(path, descriptor of its folder, name) of everything except folders and files that are still being written."""
    if not root.is_dir():
        return
    # The root itself may be a link; links below it are not followed.
    for base, folders, names, folder in os.fwalk(root.resolve(), onerror=_unless_gone):
        folders.sort()
        below = PurePosixPath(base).relative_to(root.resolve())
        for name in sorted(names):
            if not _PARTIAL.fullmatch(name):
                yield str(below / name), folder, name


@contextmanager
def _open_regular(folder: int, name: str) -> Iterator[BinaryIO | None]:
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as exc:
        if exc.errno not in _ABSENT:
            raise _unreadable(name, exc) from exc
        yield None
        return
    with os.fdopen(descriptor, "rb") as file:
        yield file if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


@contextmanager
def _open_below(root: Path, path: str) -> Iterator[BinaryIO | None]:
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
            if exc.errno not in _ABSENT:
                raise _unreadable(path, exc) from exc
            yield None
            return
        with _open_regular(folder, name) as file:
            yield file
    finally:
        if folder >= 0:
            os.close(folder)


def _unless_gone(exc: OSError) -> None:
    if exc.errno not in _ABSENT:
        raise _unreadable(str(exc.filename), exc) from exc


def _unreadable(path: str, exc: OSError) -> InvalidInput:
    return InvalidInput(
        f"'{path}' of the storage root can't be read: {exc.strerror}.",
        remedy="Run this as the user that the platform runs as, or one who may read all of it.",
    )
