"""The `file` scheme: a folder of this host (or a shared volume), with atomic writes by rename.

A team's code may write to the team's own folder, and make links, pipes and the like there at any moment. So each folder
of a path is opened relative to its parent, without following links. Only regular files with a single name are opened:
where the kernel lets users make hard links to other users' files, a team could otherwise gain access to those.

In a folder that its owner shares with its group only (setgid), new files are readable by the group, and new folders are
shared in the same way.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from rayplane import trees
from rayplane.errors import Conflict, InvalidInput, NotFound, Unavailable
from rayplane.storage.layout import LONGEST
from rayplane.storage.root import room

# O_PATH, where it exists: traversing a folder needs no permission to list it.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER = _PASS | os.O_NOFOLLOW
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: opening a pipe must not block
_PART = 2**20
"""Bytes copied at a time."""


class FileStorage:
    """Files below one folder, which the first write creates, accessible only to its owner."""

    def __init__(self, root: str) -> None:
        parts = urlsplit(root)
        if parts.netloc or not parts.path.startswith("/"):
            raise InvalidInput(f"Storage root '{root}' is not an absolute path.", remedy="Write it as file:///path.")
        self.root = root.rstrip("/")
        self._base = Path(unquote(parts.path))

    def uri(self, path: str) -> str:
        return f"{self.root}/{path.strip('/')}"

    def read(self, path: str) -> bytes:
        with self._reader(path) as file:
            return file.read()

    def read_from(self, path: str, offset: int, limit: int) -> bytes:
        with self._reader(path) as file:
            if offset >= os.fstat(file.fileno()).st_size:  # seeking beyond the file system's limit would fail
                return b""
            file.seek(offset)
            return file.read(limit)

    def write(self, path: str, data: bytes) -> None:
        self.write_from(path, BytesIO(data))

    def write_from(self, path: str, source: BinaryIO) -> None:
        with room(f"write '{self.uri(path)}'"), self._folder_of(path, make=True) as (folder, name):
            partial = f".{name}.{uuid.uuid4().hex}"
            file = os.open(partial, _FILE | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
            try:
                with os.fdopen(file, "wb") as stream:
                    _share_file(file, folder)
                    shutil.copyfileobj(source, stream, _PART)
                    stream.flush()
                    os.fsync(file)
                os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            except IsADirectoryError as exc:
                os.unlink(partial, dir_fd=folder)
                raise _folder_in_the_way(path) from exc
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(partial, dir_fd=folder)
                raise

    def append(self, path: str, data: bytes) -> None:
        with (
            room(f"write '{self.uri(path)}'"),
            self._folder_of(path, make=True) as (folder, name),
            self._open_regular(path, name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, folder) as file,
        ):
            end = os.fstat(file).st_size
            if not end:
                _share_file(file, folder)
            left = memoryview(data)
            try:
                while left:
                    left = left[os.write(file, left) :]
                os.fsync(file)
            except OSError:
                # The caller will append the same data again: a remaining part would be there twice.
                os.ftruncate(file, end)
                raise

    def exists(self, path: str) -> bool:
        try:
            self._stat(path)
        except NotFound:
            return False
        return True

    def size(self, path: str) -> int:
        return self._stat(path).st_size

    def list(self, path: str) -> Iterator[str]:
        names: Sequence[str] = ()
        with suppress(FileNotFoundError, NotADirectoryError), self._open_folder(path, self._parts(path)) as folder:
            listed = os.open(".", _LIST, dir_fd=folder)
            try:
                names = os.listdir(listed)
            finally:
                os.close(listed)
        yield from sorted(name for name in names if not name.startswith("."))

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError), self._folder_of(path) as (folder, name):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                trees.remove(name, folder=folder, label=self.uri(path))
            else:
                os.unlink(name, dir_fd=folder)  # a link itself, not its target

    def move(self, source: str, target: str) -> None:
        with (
            room(f"write '{self.uri(target)}'"),
            self._as_not_found(source),
            self._folder_of(source) as (old, name),
            self._folder_of(target, make=True) as (new, other),
        ):
            with suppress(FileNotFoundError):
                os.stat(other, dir_fd=new, follow_symlinks=False)
                raise Conflict(f"There is something at '{self.uri(target)}'.", remedy="Choose another path.")
            try:
                os.rename(name, other, src_dir_fd=old, dst_dir_fd=new)
            except PermissionError as exc:
                # Moving a folder takes the permission to write to it, which a team's code may have taken away.
                if not trees.let_owner_write(name, folder=old):
                    raise Unavailable(
                        f"'{self.uri(source)}' can't be moved to '{self.uri(target)}': {exc.strerror}.",
                        remedy="Give the gateway's user the permission to write to both and to their folders.",
                    ) from exc
                os.rename(name, other, src_dir_fd=old, dst_dir_fd=new)

    def local_path(self, path: str) -> str | None:
        return str(self._base.resolve().joinpath(*self._parts(path)))

    def _parts(self, path: str) -> tuple[str, ...]:
        """Split a path into names; raises InvalidInput for '..' and invalid names."""
        normal = os.path.normpath(path.strip("/") or ".")
        parts = () if normal == "." else tuple(normal.split("/"))
        if ".." in parts:
            raise InvalidInput(f"Path '{path}' leaves the storage root.", remedy="Use a path below it.")
        for part in parts:
            if "\0" in part or len(os.fsencode(part)) > LONGEST:
                raise InvalidInput(
                    f"No file can be called '{part[:60]}'.", remedy=f"Use a name of at most {LONGEST} bytes."
                )
        return parts

    @contextmanager
    def _folder_of(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the parent folder of a path; yield its descriptor and the path's last name."""
        parts = self._parts(path)
        if not parts:
            raise InvalidInput(f"Path '{path}' is the storage root itself.", remedy="Use a path below it.")
        with self._open_folder(path, parts[:-1], make=make) as folder:
            yield folder, parts[-1]

    @contextmanager
    def _open_folder(self, path: str, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """Open the folder at these names below the root. Raises OSError if one is missing or no folder."""
        if make and not self._base.exists():
            self._base.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(self._base, _PASS)  # the root itself may be a link
        try:
            for name in names:
                made = make and _make_folder(name, folder)
                try:
                    below = os.open(name, _FOLDER, dir_fd=folder)
                except NotADirectoryError:
                    self._stat_no_link(path, name, folder)
                    raise
                if made:
                    _share_folder(folder, below)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _reader(self, path: str) -> Iterator[BinaryIO]:
        with (
            self._as_not_found(path),
            self._folder_of(path) as (folder, name),
            self._open_regular(path, name, os.O_RDONLY, folder) as file,
            os.fdopen(file, "rb", closefd=False) as stream,
        ):
            yield stream

    @contextmanager
    def _open_regular(self, path: str, name: str, flags: int, folder: int) -> Iterator[int]:
        """Open a regular file in a folder. Raises IsADirectoryError for a folder, InvalidInput for anything else."""
        try:
            file = os.open(name, _FILE | flags, 0o666, dir_fd=folder)
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise _symbolic_link(path) from exc
            if exc.errno == errno.ENXIO:  # a pipe without a reader, or a socket
                raise _not_regular(path) from exc
            raise
        try:
            status = os.fstat(file)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not stat.S_ISREG(status.st_mode):
                raise _not_regular(path)
            if status.st_nlink > 1:
                raise _hard_link(path)
            yield file
        finally:
            os.close(file)

    def _stat(self, path: str) -> os.stat_result:
        with self._as_not_found(path):
            if not self._parts(path):
                return os.stat(self._base)
            with self._folder_of(path) as (folder, name):
                return self._stat_no_link(path, name, folder)

    def _stat_no_link(self, path: str, name: str, folder: int) -> os.stat_result:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            raise _symbolic_link(path)
        return status

    @contextmanager
    def _as_not_found(self, path: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
            raise NotFound(f"There is no file at '{self.uri(path)}'.") from exc


def _make_folder(name: str, folder: int) -> bool:
    """Create a folder in an open one; True if it did not exist."""
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _group_mode(folder: int) -> int:
    """The mode of an open folder that this process' user shares with its group only; 0 for any other folder."""
    status = os.fstat(folder)
    mode = stat.S_IMODE(status.st_mode)
    return mode if mode & stat.S_ISGID and not mode & 0o007 and status.st_uid == os.geteuid() else 0


def _share_folder(above: int, made: int) -> None:
    """Share a new folder as its parent is shared, unless another user has replaced it meanwhile."""
    mode = _group_mode(above)
    if mode and os.fstat(made).st_uid == os.geteuid():
        again = os.open(".", _LIST, dir_fd=made)  # a descriptor opened by O_PATH does not support fchmod
        try:
            os.fchmod(again, mode)
        finally:
            os.close(again)


def _share_file(file: int, folder: int) -> None:
    """Let the group read a new file, if its folder is shared with the group."""
    if _group_mode(folder):
        os.fchmod(file, 0o640)


def _symbolic_link(path: str) -> InvalidInput:
    return InvalidInput(f"Path '{path}' goes over a symbolic link.", remedy="Put files in its place.")


def _not_regular(path: str) -> InvalidInput:
    return InvalidInput(f"'{path}' is a pipe, socket or device.", remedy="Put a file in its place.")


def _folder_in_the_way(path: str) -> InvalidInput:
    return InvalidInput(f"'{path}' is a folder.", remedy="Move it away: a file goes there.")


def _hard_link(path: str) -> InvalidInput:
    return InvalidInput(f"'{path}' is a file with another name elsewhere (a hard link).", remedy="Put a copy there.")
