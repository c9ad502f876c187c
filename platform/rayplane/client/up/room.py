"""Create the home's folder and check that it has free space; lock it, so that one `up` or `down` runs at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rayplane.errors import InvalidInput, RayplaneError, StorageFull, Timeout
from rayplane.settings import Home

LEAST_FREE = 256 * 2**20
"""Bytes that must be free: an empty platform's databases, logs and first Prometheus blocks need about half of it."""

Say = Callable[[str], None]


def prepare(home: Home) -> None:
    """Create the home's folders. Raises StorageFull if the disk is full, InvalidInput if they can't be written."""
    with explained(home.path):
        for folder in (home.path, home.secrets):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _make_private(folder)
        for folder in (home.logs, home.processes, home.mlflow, home.feast, home.prometheus):
            folder.mkdir(exist_ok=True)
        # A quota may refuse writes although the file system has free blocks, so try a write.
        probe = home.path / f".room.{os.getpid()}"
        try:
            probe.write_bytes(b"\0" * 2**20)
        finally:
            probe.unlink(missing_ok=True)
    require_room(home)


def require_room(home: Home) -> None:
    """Raise StorageFull if less than LEAST_FREE bytes are free."""
    free = shutil.disk_usage(home.path).free
    if free < LEAST_FREE:
        raise full(home.path, f"only {free / 2**20:.0f} MiB are free")


def full(path: Path, how: str) -> StorageFull:
    """The error for a full disk."""
    return StorageFull(
        f"The home '{path}' has no room: {how}; the platform needs {LEAST_FREE / 2**20:.0f} MiB to start.",
        remedy="Free some space there, or set RAYPLANE_HOME to a folder on a larger disk.",
    )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError about a folder into an error with a remedy."""
    try:
        yield
    except OSError as exc:
        raise _explain(path, exc) from exc


def _explain(path: Path, exc: OSError) -> RayplaneError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return full(path, os.strerror(exc.errno))
    return InvalidInput(
        f"The home '{path}' can't be written: {exc.strerror or exc}.",
        remedy="Make it a folder that you may write, or set RAYPLANE_HOME to one.",
    )


def _make_private(folder: Path) -> None:
    """Remove other users' access to a folder that this user owns: not every database in it is 0600."""
    status = folder.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        folder.chmod(0o700)


@contextmanager
def locked(home: Home, say: Say, *, timeout: float) -> Iterator[None]:
    """Hold the home's lock; raises Timeout if another `up` or `down` holds it for ``timeout`` seconds."""
    with explained(home.path):
        file = (home.path / "up.lock").open("a")
    with file:
        deadline, announced = time.monotonic() + timeout, False
        while not _lock(file):
            if not announced:
                say("another 'rayplane up' or 'down' is at work here; waiting for it")
                announced = True
            if time.monotonic() > deadline:
                raise Timeout(
                    f"Another 'rayplane up' or 'down' has held '{home.path}/up.lock' for {timeout:.0f} s.",
                    remedy=f"See which with: fuser {home.path}/up.lock",
                )
            time.sleep(0.2)
        yield


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
