"""The backup's file: a zip that only its owner may read, with a hash of each member; it gets its name once complete."""

from __future__ import annotations

import errno
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pydantic import ValidationError

from rayplane.client.backup.form import CONTENTS, Contents, Member
from rayplane.errors import Conflict, InvalidData, InvalidInput, NotFound
from rayplane.storage.root import room

_LINK_UNSUPPORTED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Errors of ``link`` on a file system that has no hard links."""
PART = 2**20
"""Bytes copied at a time."""


class Writer:
    """A backup being written. Leaving the ``with`` block without ``finish`` removes it."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        self.members: dict[str, Member] = {}

    def __enter__(self) -> Writer:
        """Open the archive; raises Conflict if the target exists, InvalidInput if it can't be written."""
        if os.path.lexists(self._target):
            raise Conflict(f"'{self._target}' is there already.", remedy="Name another file: no backup is overwritten.")
        try:
            file = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise InvalidInput(
                f"'{self._target}' can't be written: {exc.strerror}.",
                remedy="Name a file in a folder that you may write.",
            ) from exc
        self._stream = os.fdopen(file, "wb")
        self._zip = zipfile.ZipFile(self._stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        return self

    def add(self, name: str, source: BinaryIO, *, length: int | None = None, packed: bool = False) -> Member:
        """Write ``source``, or its first ``length`` bytes, as a file of the archive; return its size and hash.

        ``packed`` data is stored without compression. Raises StorageFull.
        """
        info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        info.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
        info.external_attr = 0o600 << 16
        digest, size = hashlib.sha256(), 0
        with room(f"write '{self._target}'"), self._zip.open(info, "w", force_zip64=True) as member:
            for part in parts(source, length):
                digest.update(part)
                size += len(part)
                member.write(part)
        return Member(size=size, sha256=digest.hexdigest())

    def keep(self, name: str, source: BinaryIO) -> Member:
        """Add a file and list it as a member in the contents."""
        self.members[name] = self.add(name, source)
        return self.members[name]

    def finish(self, contents: Contents) -> int:
        """Write the contents, sync the file, give it its name; return its size. Raises Conflict if that is taken."""
        text = contents.model_copy(update={"members": self.members}).model_dump_json(indent=1).encode()
        with room(f"write '{self._target}'"):
            self._zip.writestr(CONTENTS, text)
            self._zip.close()
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self._name()
        return self._target.stat().st_size

    def _name(self) -> None:
        try:
            os.link(self._partial, self._target)  # unlike a rename, a link never replaces an existing file
        except FileExistsError as exc:
            raise Conflict(f"'{self._target}' was made meanwhile.", remedy="Name another file.") from exc
        except OSError as exc:
            if exc.errno not in _LINK_UNSUPPORTED:
                raise
            self._partial.rename(self._target)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.fp = None  # closing it would write the zip's directory, and the archive would look complete
        try:
            self._stream.close()
        except OSError:
            if exc is None:
                raise
        finally:
            self._partial.unlink(missing_ok=True)


class Reader:
    """An open backup file. Each read is checked against the recorded hash."""

    def __init__(self, path: Path, zip_: zipfile.ZipFile, contents: Contents) -> None:
        self._path, self._zip, self.contents = path, zip_, contents

    def names(self, prefix: str) -> list[str]:
        """Names of the members that begin with ``prefix``, sorted."""
        return sorted(name for name in self.contents.members if name.startswith(prefix))

    def verify(self, name: str, known: Member) -> None:
        """Raise InvalidData unless a file of the archive has the size and hash of ``known``."""
        self.copy(name, known, lambda part: None)

    def copy(self, name: str, known: Member, write: Callable[[bytes], object]) -> None:
        """Pass a file of the archive to ``write`` in parts. Raises InvalidData if size or hash are not ``known``."""
        digest, size = hashlib.sha256(), 0
        try:
            with self._zip.open(name) as member:
                while part := member.read(PART):
                    digest.update(part)
                    size += len(part)
                    write(part)
        except (KeyError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as exc:
            raise damaged(self._path, f"'{name}' can't be read: {exc}") from exc
        except zlib.error as exc:
            raise damaged(self._path, f"'{name}' can't be unpacked: {exc}") from exc
        if (size, digest.hexdigest()) != (known.size, known.sha256):
            raise damaged(self._path, f"'{name}' is not what was written")

    def extract(self, name: str, known: Member, target: Path) -> None:
        """Write a file of the archive to ``target`` with mode 0600, in folders of mode 0700."""
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with room(f"write '{target}'"), os.fdopen(file, "wb") as stream:
            self.copy(name, known, stream.write)

    @contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        """Open a file of the archive that was verified before."""
        with self._zip.open(name) as member:
            yield member  # type: ignore[misc]


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """Open a backup. Raises NotFound, or InvalidData for a damaged file or one that is no backup."""
    try:
        zip_ = zipfile.ZipFile(path)
    except FileNotFoundError as exc:
        raise NotFound(f"There is no backup '{path}'.", remedy="Name the file that 'rayplane backup' wrote.") from exc
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as exc:
        raise damaged(path, f"it is no archive ({exc})") from exc
    with zip_:
        try:
            contents = Contents.model_validate_json(zip_.read(CONTENTS))
        except (KeyError, ValidationError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as exc:
            raise damaged(path, f"its '{CONTENTS}' can't be read") from exc
        yield Reader(path, zip_, contents)


def damaged(path: Path, how: str) -> InvalidData:
    """The error for a file that is damaged or is no backup; ``how`` says in which way."""
    return InvalidData(
        f"'{path}' is no backup, or a damaged one: {how}.", remedy="Nothing was written. Use another backup."
    )


def parts(source: BinaryIO, length: int | None = None) -> Iterator[bytes]:
    """Read a file in parts of at most PART bytes, up to ``length`` bytes in all."""
    left = length
    while left is None or left > 0:
        part = source.read(PART if left is None else min(PART, left))
        if not part:
            return
        if left is not None:
            left -= len(part)
        yield part
