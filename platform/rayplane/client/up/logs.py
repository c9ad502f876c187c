"""Follow log files that others write: what was added to each since the last look."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rayplane.text import printable


class Tail:
    """The lines that are added to some files from now on, each with its file's name; a file may come, or begin anew."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._offsets = {file: file.stat().st_size if file.exists() else 0 for file in files}

    def read(self) -> Iterator[str]:
        """What is new, by whole lines: ``<name>: <line>``."""
        for file, offset in self._offsets.items():
            if not file.exists():
                continue
            if file.stat().st_size < offset:
                offset = 0
            with file.open("rb") as stream:
                stream.seek(offset)
                added = stream.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._offsets[file] = offset + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                yield f"{file.stem}: {line}"


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
