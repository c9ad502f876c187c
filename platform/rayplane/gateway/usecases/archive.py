"""Check a zip that a client uploaded, entry by entry, before anything unpacks it: its author is not trusted."""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rayplane.errors import InvalidData, TooLarge
from rayplane.text import check_plain, printable

MAX_UNPACKED = 2**30
"""Bytes that a package's files may have together, both as the zip declares and as they unpack."""
MAX_FILES = 50_000
"""Files and folders in a package."""
MAX_CONTENTS = 8 * 2**20
"""Bytes of a zip's central directory, which zipfile reads into memory."""

_PIECE = 2**16
# With other methods zipfile unpacks a whole piece in memory, which for bzip2 can be millions of times its size.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DRIVE = re.compile(r"[A-Za-z]:")
_REMEDY = "Pack the folder itself, with its files alone."


def check(file: IO[bytes]) -> None:
    """Check a zip, file by file, with little of it in memory.

    Raises InvalidData if it is unreadable, damaged, encrypted or compressed by other than deflate, if it has links or
    devices, or names that lead out of the folder, occur twice or can't be written; TooLarge above MAX_UNPACKED or
    MAX_FILES.
    """
    with _readable(), zipfile.ZipFile(_Contents(file)) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_FILES:
            raise TooLarge(f"The package has more than {MAX_FILES} files.", remedy="Leave data out of the code folder.")
        _check_names(entries)
        if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
            raise _too_large()
        left = MAX_UNPACKED
        for entry in entries:
            _check_kind(entry)
            left -= _size(archive, entry, left)


class _Contents(io.RawIOBase):
    """A file that refuses reads larger than MAX_CONTENTS: zipfile reads a zip's central directory in one such read."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; raises TooLarge for more than MAX_CONTENTS."""
        if size > MAX_CONTENTS:
            raise TooLarge("The package's table of contents is too large.", remedy="Leave data out of the code folder.")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The current offset."""
        return self._file.tell()


@contextmanager
def _readable() -> Iterator[None]:
    """Translate what zipfile raises for malformed bytes to InvalidData; an OSError of the disk passes unchanged."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        struct.error,
        EOFError,
        LookupError,
        MemoryError,
        NotImplementedError,
        OverflowError,
        RuntimeError,
        ValueError,
    ) as exc:
        raise _unreadable(exc) from exc


def _check_names(entries: list[zipfile.ZipInfo]) -> None:
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        path = _path(entry.orig_filename)
        (folders if _is_folder(entry) else files).add(path)
        parts = path.split("/")
        folders.update("/".join(parts[:end]) for end in range(1, len(parts)))
    if len(files) < sum(not _is_folder(entry) for entry in entries) or files & folders:
        raise InvalidData(f"The package has two files called '{_twin(entries, folders)}'.", remedy=_REMEDY)


def _path(name: str) -> str:
    """The path to which a name unpacks, without empty parts and dots; raises InvalidData for an unsafe one."""
    try:
        check_plain(name)
    except ValueError as exc:
        raise InvalidData(f"The package's file {exc}.", remedy="Rename it.") from exc
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or _DRIVE.match(path) or ".." in parts:
        raise InvalidData(f"The package's file '{name}' leaves its folder.", remedy=_REMEDY)
    if not parts and not name.endswith("/"):
        raise InvalidData(f"The package has a file without a name: '{name}'.", remedy=_REMEDY)
    return "/".join(parts)


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.orig_filename.endswith("/")


def _twin(entries: list[zipfile.ZipInfo], folders: set[str]) -> str:
    known: set[str] = set()
    for entry in entries:
        path = _path(entry.orig_filename)
        if not _is_folder(entry) and (path in known or path in folders):
            return path
        known.add(path)
    raise AssertionError("no name is there twice")


def _check_kind(entry: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "neither a file nor a folder"
        raise InvalidData(f"The package's file '{printable(entry.filename)}' is {what}.", remedy=_REMEDY)
    if entry.flag_bits & 0x1:
        raise InvalidData(f"The package's file '{printable(entry.filename)}' is encrypted.", remedy=_REMEDY)
    if entry.compress_type not in _METHODS:
        method = zipfile.compressor_names.get(entry.compress_type, str(entry.compress_type))  # type: ignore[attr-defined]
        raise InvalidData(
            f"The package's file '{printable(entry.filename)}' is compressed by {method}, which is not accepted.",
            remedy="Deflate it, or leave it as it is.",
        )


def _size(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, left: int) -> int:
    """The actual size of a file in bytes; raises TooLarge once it exceeds ``left``, InvalidData if it is damaged."""
    size, declared = 0, entry.file_size
    # zipfile stops at the declared size and would not notice that the file continues.
    entry.file_size += 1
    try:
        with archive.open(entry) as stream:
            while data := stream.read(_PIECE):
                size += len(data)
                if size > left:
                    raise _too_large()
    except zipfile.BadZipFile as exc:
        raise _damaged(entry) from exc
    if size != declared:
        raise _damaged(entry)
    return size


def _too_large() -> TooLarge:
    return TooLarge(
        f"The package's files have more than {MAX_UNPACKED // 2**20} MiB.",
        remedy="Leave data out of the code folder (list it in .rayignore) and read it from a dataset.",
    )


def _damaged(entry: zipfile.ZipInfo) -> InvalidData:
    return InvalidData(f"The package's file '{printable(entry.filename)}' is damaged.", remedy="Upload it again.")


def _unreadable(exc: BaseException) -> InvalidData:
    return InvalidData(f"The package is not a zip that can be read: {exc}.", remedy="Upload a zip of the folder.")
