"""Follow log files that other processes write, across rotations."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rayplane.client.up.rotated_logs import partial, rotated
from rayplane.text import printable

_Identity = tuple[int, int] | None


@dataclass
class _Position:
    """Position up to which a file was read."""

    offset: int
    cut_off: _Identity
    """Identity of the part that the last rotation cut off."""
    unfinished: bytes = b""
    """The beginning of a line that is not complete yet."""


class Tail:
    """Lines that are added to some files from now on, each with its file's name.

    A file may be created, truncated or rotated meanwhile. No line is missed or repeated as long as a file is rotated
    at most once between two reads.
    """

    def __init__(self, positions: Mapping[Path, _Position]) -> None:
        self._positions = positions

    @classmethod
    def from_now(cls, files: Sequence[Path]) -> Tail:
        """Look where each file ends now."""
        return cls(
            {file: _Position(file.stat().st_size if file.exists() else 0, _identity(rotated(file))) for file in files}
        )

    def read(self) -> Iterator[str]:
        """Complete lines added since the last call, as ``<name>: <line>``."""
        for file, position in self._positions.items():
            *whole, position.unfinished = (position.unfinished + _read_added(file, position)).split(b"\n")
            for line in whole:
                yield f"{file.stem}: {line.decode(errors='replace')}"


def _read_added(file: Path, position: _Position) -> bytes:
    """Bytes added to a file; moves the position forward. Empty while the file is being rotated."""
    if partial(file).exists() or not file.exists():
        return b""
    cut_off, offset, before = _identity(rotated(file)), position.offset, b""
    if cut_off is not None and cut_off != position.cut_off:
        before = _read_from(rotated(file), offset)
        offset = max(0, offset - rotated(file).stat().st_size)
    elif file.stat().st_size < offset:
        offset, position.unfinished = 0, b""
    added = _read_from(file, offset)
    if partial(file).exists() or _identity(rotated(file)) != cut_off:
        return b""  # it was rotated meanwhile, so the bytes read may be from any part
    position.offset, position.cut_off = offset + len(added), cut_off
    return before + added


def _read_from(file: Path, offset: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(offset)
        return stream.read()


def _identity(file: Path) -> _Identity:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return (stat.st_ino, stat.st_mtime_ns)


@contextmanager
def printed(files: Sequence[Path], *, to: TextIO, every: float = 0.5) -> Iterator[None]:
    """Print lines that are added to some files while the ``with`` block runs."""
    tail, stopping = Tail.from_now(files), threading.Event()

    def run() -> None:
        while not stopping.wait(every):
            show()

    def show() -> None:
        for line in tail.read():
            print(printable(line), file=to, flush=True)

    thread = threading.Thread(target=run, name="logs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        show()
