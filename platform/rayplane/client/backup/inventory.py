"""List the files of a storage root with size and hash, and compare a root with such a list.

A team's code may put links, pipes and the like into its own folder at any moment. So each folder is opened relative to
its parent without following links, and only regular files are read. Listing leaves out what can't be read, so that no
team's file ends a backup.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from pydantic import BaseModel, Field

from rayplane.client.backup.archive import parts
from rayplane.client.backup.form import FILES, Member, StoredFile
from rayplane.errors import InvalidInput
from rayplane.storage.layout import LONGEST, PARTIAL

_PACKAGE = re.compile(r"[^/]+/packages/([0-9a-f]{64})\.zip")
_DATABASE = re.compile(r"[^/]+/feast/[^/]+\.db")
_BESIDE = re.compile(r"[^/]+/feast/[^/]+\.db-(wal|shm|journal)")
_LOG = re.compile(r"[^/]+/jobs/[^/]+/driver\.log")
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
DEEPEST = 100
"""Levels of folders below the root that are listed: each takes an open descriptor."""
HOLES = 2**30
"""Bytes by which a file's size may exceed what the disk has for it. A larger hole would fill the backup with zeros."""
_NO_FILE = {errno.ELOOP, errno.ENXIO}
"""Errors of opening a link or a socket, which the platform never writes."""
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""Errors for a path that is gone, a link or a socket: the platform wrote no file there, or it was deleted."""

Take = Callable[[str, BinaryIO, int], Member]
"""Called with a member's name, the file and its present length; returns size and hash of the part that it took."""

Leave = Callable[[str, str], None]
"""Called with the path of a file or folder that is left out, and the reason."""


class _Unreadable(Exception):
    """Reading a file failed, in contrast to writing it elsewhere."""


class _Refused(Exception):
    """Opening a file failed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(_reason(error))
        self.reason = _reason(error)
        self.error = error


class _Source:
    """A file of the root whose failed reads raise _Unreadable."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError as exc:
            raise _Unreadable(exc.strerror) from exc


class Difference(BaseModel):
    """Files in which a storage root differs from a backup's list of it."""

    checked: int = 0
    missing: list[str] = Field(default_factory=list)
    changed: list[str] = Field(default_factory=list)

    @property
    def is_none(self) -> bool:
        """True if every file is there, unchanged."""
        return not self.missing and not self.changed


def list_files(root: Path, take: Take | None = None, *, leave: Leave) -> Iterator[StoredFile]:
    """Each file of a root, folder by folder, with its size and hash, which ``take``, if given, reads from the content.

    Without ``take`` packages are not read, since a package's name is its hash. Databases are not listed: SQLite copies
    them. What can't be read, kept or found any more is passed to ``leave``. Raises InvalidInput for the root itself.
    """
    number = 0
    for path, folder, name in _walk(root, leave):
        if _DATABASE.fullmatch(path) or _BESIDE.fullmatch(path):
            continue
        try:
            with _open_regular(folder, name) as file:
                if file is None:
                    continue
                status = os.fstat(file.fileno())
                if (hole := _hole(status)) is not None:
                    leave(path, hole)
                    continue
                number += 1
                member = None
                package = _PACKAGE.fullmatch(path)
                source = cast(BinaryIO, _Source(file))
                if take is not None:
                    member = f"{FILES}{number:08d}"
                    taken = take(member, source, status.st_size)
                elif package:
                    taken = Member(size=status.st_size, sha256=package[1])
                else:
                    taken = measure(source, status.st_size)
        except _Refused as exc:
            leave(path, exc.reason)
            continue
        except _Unreadable as exc:
            leave(path, f"it can't be read: {exc}")
            continue
        grows = _LOG.fullmatch(path) is not None
        yield StoredFile(path=path, size=taken.size, sha256=taken.sha256, grows=grows, member=member)


def databases(root: Path, *, leave: Leave) -> Iterator[tuple[str, int, str]]:
    """Databases in a root: Feast's, on backends where a team sees only its own folder.

    Yields each one's path, the descriptor of its folder and its name, and looks at the next one only when asked for it.
    Passes databases that can't be copied to ``leave``; folders are passed by ``list_files``, which sees the same ones.
    """
    for path, folder, name in _walk(root, lambda path, reason: None):
        if not _DATABASE.fullmatch(path):
            continue
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as exc:
            leave(path, _reason(exc))
            continue
        if (hole := _hole(status)) is not None:
            leave(path, hole)
        elif stat.S_ISREG(status.st_mode):
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


def _walk(root: Path, leave: Leave) -> Iterator[tuple[str, int, str]]:
    """(path, descriptor of its folder, name) of everything except folders and files that are still being written."""
    if not root.is_dir():
        return
    stack: list[tuple[int, str, list[str]]] = []  # descriptor, path with '/' at its end, folders yet to be listed
    try:
        try:
            below: tuple[int, str] | None = (os.open(root, _FOLDER), "")  # the root itself may be a link
        except OSError as exc:
            raise _unreadable(str(root), exc) from exc
        while below is not None:
            folder, path = below
            stack.append((folder, path, folders := []))
            for name, is_folder in _entries(folder, path, leave):
                if is_folder:
                    folders.append(name)
                elif not PARTIAL.fullmatch(name):
                    yield f"{path}{name}", folder, name
            folders.reverse()
            below = _next_folder(stack, leave)
    finally:
        for folder, _, _ in stack:
            os.close(folder)


def _entries(folder: int, path: str, leave: Leave) -> Iterator[tuple[str, bool]]:
    """(name, True for a folder) of each entry of an open folder, in the order of the names."""
    try:
        with os.scandir(folder) as listed:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in listed)
    except OSError as exc:
        leave(path, _reason(exc))
        return
    for name, is_folder in entries:
        encoded = os.fsencode(name)
        if len(encoded) > LONGEST or encoded.decode(errors="replace") != name:
            shown = encoded.decode(errors="backslashreplace")
            leave(f"{path}{shown}", f"its name is no UTF-8 or longer than {LONGEST} bytes")
        else:
            yield name, is_folder


def _next_folder(stack: list[tuple[int, str, list[str]]], leave: Leave) -> tuple[int, str] | None:
    """Open the next folder to list, and close those that are done; None after the last one."""
    while stack:
        folder, path, folders = stack[-1]
        if not folders:
            stack.pop()
            os.close(folder)
            continue
        name = folders.pop()
        if len(stack) > DEEPEST:
            leave(f"{path}{name}/", f"it is more than {DEEPEST} folders deep")
            continue
        try:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder), f"{path}{name}/"
        except OSError as exc:
            leave(f"{path}{name}/", _reason(exc))
    return None


def _hole(status: os.stat_result) -> str | None:
    """The reason to leave out a sparse file; None for others."""
    allocated = status.st_blocks * 512
    if not stat.S_ISREG(status.st_mode) or status.st_size - allocated <= HOLES:
        return None
    return f"it is sparse: {status.st_size} bytes long, of which the disk has {allocated}"


def _reason(exc: OSError) -> str:
    return "it went meanwhile" if exc.errno in _ABSENT else f"it can't be read: {exc.strerror}"


@contextmanager
def _open_regular(folder: int, name: str) -> Iterator[BinaryIO | None]:
    """Open a regular file; yields None for anything else. Raises _Refused if it is gone or can't be opened."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as exc:
        if exc.errno not in _NO_FILE:
            raise _Refused(exc) from exc
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
            folder = os.open(root, _FOLDER)
            for part in above:
                below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = below
        except OSError as exc:
            if exc.errno not in _ABSENT:
                raise _unreadable(path, exc) from exc
            yield None
            return
        with ExitStack() as opened:
            try:
                file = opened.enter_context(_open_regular(folder, name))
            except _Refused as exc:
                if exc.error.errno not in _ABSENT:
                    raise _unreadable(path, exc.error) from exc
                file = None
            yield file
    finally:
        if folder >= 0:
            os.close(folder)


def _unreadable(path: str, exc: OSError) -> InvalidInput:
    return InvalidInput(
        f"'{path}' of the storage root can't be read: {exc.strerror}.",
        remedy="Run this as the user that the platform runs as, or one who may read all of it.",
    )
