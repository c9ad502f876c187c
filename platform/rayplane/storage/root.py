"""Interface of the storage root: read, write and list below one URI of any scheme."""

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
    """Interface of a scheme's adapter. Paths are relative to the root and use '/'.

    Obligations: writes are atomic (a reader gets all of a file or nothing); reading a missing file raises NotFound;
    deleting a missing file succeeds; a write to a full disk raises StorageFull and leaves nothing behind.
    """

    root: str

    def uri(self, path: str) -> str:
        """The full URI of a path."""
        ...

    def read(self, path: str) -> bytes:
        """Read all bytes of a file."""
        ...

    def read_from(self, path: str, offset: int, limit: int) -> bytes:
        """Read at most ``limit`` bytes from ``offset``."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Replace a file atomically."""
        ...

    def write_from(self, path: str, source: BinaryIO) -> None:
        """Replace a file atomically by the rest of ``source``, copied in parts."""
        ...

    def append(self, path: str, data: bytes) -> None:
        """Append to a file, creating it if missing; durable on return."""
        ...

    def exists(self, path: str) -> bool:
        """True if there is a file or folder."""
        ...

    def size(self, path: str) -> int:
        """A file's size in bytes."""
        ...

    def list(self, path: str) -> Iterator[str]:
        """Names directly inside a folder, sorted; nothing if it is missing."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with its content. Raises Unavailable if something in it can't be removed."""
        ...

    def move(self, source: str, target: str) -> None:
        """Move a file, or a folder with its content, atomically.

        Raises NotFound if ``source`` is missing, Conflict if ``target`` exists, Unavailable without the permission.
        """
        ...

    def local_path(self, path: str) -> str | None:
        """The path on this host's file system, if the scheme has one."""
        ...


def open_root(uri: str) -> Storage:
    """The adapter for a root URI (``file:///...``). Raises InvalidInput without a scheme, Unsupported for a new one."""
    scheme = urlsplit(uri).scheme
    if not scheme:
        raise InvalidInput(f"Storage root '{uri}' has no scheme.", remedy="Write it as file:///path.")
    storage: Storage = plugins.load("storage", scheme)(uri)
    return storage


def relative(root: str, uri: str) -> str:
    """Path of a URI relative to the root; raises InvalidInput if it is not below the root."""
    prefix = root.rstrip("/") + "/"
    path = posixpath.normpath(uri[len(prefix) :]) if uri.startswith(prefix) else ".."
    if path.startswith(".."):
        raise InvalidInput(f"'{uri}' is not below the storage root '{root}'.", remedy="Use a URI of this platform.")
    return path


@contextmanager
def room(what: str) -> Iterator[None]:
    """Turn the OSError of a full disk into StorageFull, whose message says what was being done (``what``)."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"No room left to {what}.",
                remedy="Free some space there or set RAYPLANE_STORAGE_ROOT to a larger volume, then run it again.",
            ) from exc
        raise
