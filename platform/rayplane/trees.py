"""Remove folders with all that is in them, though others may write to them and nest them deeply.

``shutil.rmtree`` of Python 3.11 recurses once per level, gives up at folders without write permission, and never ends
where another user goes on writing.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path

from rayplane.errors import Unavailable

# O_PATH, where it exists: opening a folder needs no permission to list it.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_REFILLED = 100
"""Number of times that a folder which was emptied may have new content, before that is an error."""


def is_ours(path: Path) -> bool:
    """True for a real folder of this process' user, or one that lies where no other user can have put it."""
    try:
        entry, above = path.lstat(), path.parent.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    own = os.geteuid()
    if stat.S_ISLNK(above.st_mode) and above.st_uid not in (0, own):
        return False  # another user's link, which leads anywhere
    ours_alone = stat.S_ISDIR(above.st_mode) and above.st_uid == own and not above.st_mode & 0o022
    return stat.S_ISDIR(entry.st_mode) and (entry.st_uid == own or ours_alone)


def remove(path: str | Path, *, folder: int | None = None, label: str | None = None) -> None:
    """Remove a folder with its content; succeeds if it is missing, or goes meanwhile. Follows no link.

    ``folder``: the descriptor of the open folder to which the path is relative; ``label``: the path in the error's
    text. Before a folder is emptied, its owner gets all permissions for it; if root removes it, root gets it, so that
    no other user can refill it. Raises Unavailable if something can't be removed.
    """
    name = os.fspath(path)
    try:
        try:
            top = _take(name, folder)
        except FileNotFoundError:
            return
        try:
            _remove_taken(top, name, folder)
        finally:
            os.close(top)
    except OSError as exc:
        what = f" ('{exc.filename}' in it)" if exc.filename not in (None, name) else ""
        raise Unavailable(
            f"'{label or name}' can't be removed{what}: {exc.strerror}.",
            remedy="End what writes to it, then remove it as its owner or as root.",
        ) from exc


def let_owner_write(name: str, *, folder: int) -> bool:
    """Give this process' user the missing permission to write to its own folder; False if that is not missing."""
    opened = os.open(name, _PASS, dir_fd=folder)
    try:
        status = os.fstat(opened)
        if status.st_uid != os.geteuid() or status.st_mode & 0o200:
            return False
        os.chmod(_itself(opened), stat.S_IMODE(status.st_mode) | 0o200)
        return True
    finally:
        os.close(opened)


def _remove_taken(top: int, name: str, folder: int | None) -> None:
    for _ in range(_MOST_REFILLED):
        _empty(top)
        try:
            os.rmdir(name, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                raise
        else:
            return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)


def _empty(top: int) -> None:
    """Remove all that is in an open folder.

    Folders in its folders are moved up into it, so that neither the depth nor the number of open files matters.
    """
    refilled = 0
    while names := os.listdir(top):
        for name in names:
            with suppress(FileNotFoundError):  # another process that removes the same folder was faster
                if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=top)
                    continue
                _flatten(name, top)
                try:
                    os.rmdir(name, dir_fd=top)
                except OSError as exc:
                    refilled += 1
                    if exc.errno != errno.ENOTEMPTY or refilled > _MOST_REFILLED:
                        raise


def _flatten(name: str, top: int) -> None:
    """Remove the files of a folder in ``top``, and move its folders up into ``top``."""
    folder = _take(name, top)
    try:
        for entry in os.listdir(folder):
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
                    os.close(_take(entry, folder))  # moving a folder takes the permission to write to it
                    os.rename(entry, uuid.uuid4().hex, src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(entry, dir_fd=folder)
    finally:
        os.close(folder)


def _take(name: str, folder: int | None) -> int:
    """Open a folder for listing, once its owner, or root, may do all with it."""
    opened = os.open(name, _PASS, dir_fd=folder)
    try:
        listed = _open_for_listing(opened)
    except OSError as exc:
        exc.filename = name
        raise
    finally:
        os.close(opened)
    try:
        status = os.fstat(listed)
        if os.geteuid() == 0 and status.st_uid != 0:
            os.fchown(listed, 0, 0)
        if os.geteuid() in (0, status.st_uid) and status.st_mode & 0o777 != 0o700:
            os.fchmod(listed, 0o700)
    except OSError:
        os.close(listed)
        raise
    return listed


def _open_for_listing(folder: int) -> int:
    try:
        return os.open(".", _LIST, dir_fd=folder)
    except PermissionError as denied:
        try:
            os.chmod(_itself(folder), 0o700)
        except FileNotFoundError:  # a sandbox without /proc
            raise denied from None
        return os.open(".", _LIST, dir_fd=folder)


def _itself(folder: int) -> int | str:
    """An open folder as chmod takes it: a descriptor opened by O_PATH supports it by its path below /proc only."""
    return f"/proc/self/fd/{folder}" if hasattr(os, "O_PATH") else folder
