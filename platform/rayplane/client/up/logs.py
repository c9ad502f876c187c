"""Follow log files that others write: what was added to each since the last look."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rayplane.client.up.rotated_logs import partial, rotated
from rayplane.text import printable

_Identity = tuple[int, int] | None


@dataclass
class _Place:
    """How far a file was read."""

    offset: int
    cut_off: _Identity
    """Which part of it was cut off last."""
    begun: bytes = b""
    """The beginning of a line whose end is not there yet."""


class Tail:
    """The lines that are added to some files from now on, each with its file's name; a file may come, begin anew, or be
    rotated, of which no line is missed or told twice as long as that is not twice between two looks."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._places = {
            file: _Place(file.stat().st_size if file.exists() else 0, _identity(rotated(file))) for file in files
        }

    def read(self) -> Iterator[str]:
        """What is new, by whole lines: ``<name>: <line>``."""
        for file, place in self._places.items():
            *whole, place.begun = (place.begun + _added(file, place)).split(b"\n")
            for line in whole:
                yield f"{file.stem}: {line.decode(errors='replace')}"


def _added(file: Path, place: _Place) -> bytes:
    """What was added to a file, of which the place is then told; nothing while it is being rotated."""
    if partial(file).exists() or not file.exists():
        return b""
    cut_off, offset, before = _identity(rotated(file)), place.offset, b""
    if cut_off is not None and cut_off != place.cut_off:
        before = _from(rotated(file), offset)
        offset = max(0, offset - rotated(file).stat().st_size)
    elif file.stat().st_size < offset:
        offset, place.begun = 0, b""
    added = _from(file, offset)
    if partial(file).exists() or _identity(rotated(file)) != cut_off:
        return b""  # it was rotated meanwhile: what was read may be from anywhere
    place.offset, place.cut_off = offset + len(added), cut_off
    return before + added


def _from(file: Path, offset: int) -> bytes:
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
    """Print what is added to some files, for the time of the block."""
    tail, stopping = Tail(files), threading.Event()

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
