"""The storage root: open, list and publish below one URI, whatever its scheme."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from rayplane import plugins
from rayplane.errors import InvalidInput, StorageFull


class Storage(Protocol):
    """What a scheme's adapter does. Paths are relative to the root and use '/'.

    Obligations: a write is atomic (a reader sees all of it or nothing); reading what is not there raises NotFound;
    deleting what is not there succeeds; no room left raises StorageFull and leaves nothing behind.
    """

    root: str

    def uri(self, path: str) -> str:
        """The full URI of a path."""
        ...

    def read(self, path: str) -> bytes:
        """All bytes of a file."""
        ...

    def read_from(self, path: str, offset: int, limit: int) -> bytes:
        """At most ``limit`` bytes from ``offset``."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Replace a file atomically."""
        ...

    def write_from(self, path: str, source: BinaryIO) -> None:
        """Replace a file atomically by the rest of ``source``, a part at a time."""
        ...

    def append(self, path: str, data: bytes) -> None:
        """Add to the end of a file (made if missing), durably before returning."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        ...

    def size(self, path: str) -> int:
        """A file's size in bytes."""
        ...

    def list(self, path: str) -> Iterator[str]:
        """Names directly inside a folder, sorted; nothing if it is missing."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with all in it."""
        ...

    def move(self, source: str, target: str) -> None:
        """Give a file or folder, with all in it, another path, at once. Raises NotFound without ``source``, Conflict if
        there is something at ``target``."""
        ...

    def local_path(self, path: str) -> str | None:
        """The path on this host's file system, if the scheme has one."""
        ...


def open_root(uri: str) -> Storage:
    """The adapter for a root URI (``file:///...``); InvalidInput without a scheme, Unsupported for a new one."""
    scheme = urlsplit(uri).scheme
    if not scheme:
        raise InvalidInput(f"Storage root '{uri}' has no scheme.", remedy="Write it as file:///path.")
    storage: Storage = plugins.load("storage", scheme)(uri)
    return storage


def relative(root: str, uri: str) -> str:
    """The path of a URI below a root; raises InvalidInput if it is not below it."""
    prefix = root.rstrip("/") + "/"
    path = posixpath.normpath(uri[len(prefix) :]) if uri.startswith(prefix) else ".."
    if path.startswith(".."):
        raise InvalidInput(f"'{uri}' is not below the storage root '{root}'.", remedy="Use a URI of this platform.")
    return path


@contextmanager
def room(what: str) -> Iterator[None]:
    """Raise StorageFull, saying what there was no room to do, in place of the operating system's error for it."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"No room left to {what}.",
                remedy="Free some space there or set RAYPLANE_STORAGE_ROOT to a larger volume, then run it again.",
            ) from exc
        raise
