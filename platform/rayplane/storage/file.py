"""The `file` scheme: a folder of this host (or a shared volume), with atomic writes by rename."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rayplane.errors import InvalidInput, NotFound
from rayplane.storage.root import room


class FileStorage:
    """Files below one folder. The folder is made on the first write, readable by its owner alone."""

    def __init__(self, root: str) -> None:
        parts = urlsplit(root)
        if parts.netloc or not parts.path.startswith("/"):
            raise InvalidInput(f"Storage root '{root}' is not an absolute path.", remedy="Write it as file:///path.")
        self.root = root.rstrip("/")
        self._base = Path(unquote(parts.path))

    def uri(self, path: str) -> str:
        return f"{self.root}/{path.strip('/')}"

    def read(self, path: str) -> bytes:
        with _found(self.uri(path)):
            return self._path(path).read_bytes()

    def read_from(self, path: str, offset: int, limit: int) -> bytes:
        with _found(self.uri(path)), self._path(path).open("rb") as file:
            file.seek(offset)
            return file.read(limit)

    def write(self, path: str, data: bytes) -> None:
        target = self._path(path)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        with room(f"write '{self.uri(path)}'"):
            self._make_folder(target.parent)
            try:
                with partial.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def append(self, path: str, data: bytes) -> None:
        target = self._path(path)
        with room(f"write '{self.uri(path)}'"):
            self._make_folder(target.parent)
            with target.open("ab", buffering=0) as file:
                end = os.fstat(file.fileno()).st_size
                left = memoryview(data)
                try:
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    # The caller appends the same again: a part that stayed would be there twice.
                    os.ftruncate(file.fileno(), end)
                    raise

    def exists(self, path: str) -> bool:
        return self._path(path).exists()

    def size(self, path: str) -> int:
        with _found(self.uri(path)):
            return self._path(path).stat().st_size

    def list(self, path: str) -> Iterator[str]:
        folder = self._path(path)
        if folder.is_dir():
            yield from sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))

    def delete(self, path: str) -> None:
        target = self._path(path)
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=False)
            return
        with suppress(FileNotFoundError):
            target.unlink()

    def local_path(self, path: str) -> str | None:
        return str(self._path(path))

    def _path(self, path: str) -> Path:
        base = self._base.resolve()
        named = Path(os.path.normpath(base / path.strip("/")))
        if named != base and base not in named.parents:
            raise InvalidInput(f"Path '{path}' leaves the storage root.", remedy="Use a path below it.")
        # A team's code may write to the team's folder alone, but make links there to whatever it likes.
        if named.resolve() != named:
            raise InvalidInput(f"Path '{path}' goes over a symbolic link.", remedy="Put files in its place.")
        return named

    def _make_folder(self, folder: Path) -> None:
        if not self._base.exists():
            self._base.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _found(uri: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as exc:
        raise NotFound(f"There is no file at '{uri}'.") from exc
