"""A storage scheme: ``volume://name/folder`` is a folder of a mounted volume, wherever a host has mounted it.

``ACME_VOLUMES`` names the folder in which the volumes are mounted, ``/mnt`` by default. A volume is a file system, so
the adapter of ``file`` reads and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import urlsplit

from rayplane.errors import InvalidInput
from rayplane.storage.root import open_root


class VolumeStorage:
    """Files below a folder of a volume."""

    def __init__(self, root: str) -> None:
        parts = urlsplit(root)
        if not parts.netloc or ".." in parts.path.split("/"):
            raise InvalidInput(f"Storage root '{root}' names no volume.", remedy="Write it as volume://name/folder.")
        self.root = root.rstrip("/")
        self._files = open_root(f"file://{os.environ.get('ACME_VOLUMES', '/mnt')}/{parts.netloc}{parts.path}")

    def uri(self, path: str) -> str:
        return f"{self.root}/{path.strip('/')}"

    def read(self, path: str) -> bytes:
        return self._files.read(path)

    def read_from(self, path: str, offset: int, limit: int) -> bytes:
        return self._files.read_from(path, offset, limit)

    def write(self, path: str, data: bytes) -> None:
        self._files.write(path, data)

    def write_from(self, path: str, source: BinaryIO) -> None:
        self._files.write_from(path, source)

    def append(self, path: str, data: bytes) -> None:
        self._files.append(path, data)

    def exists(self, path: str) -> bool:
        return self._files.exists(path)

    def size(self, path: str) -> int:
        return self._files.size(path)

    def list(self, path: str) -> Iterator[str]:
        return self._files.list(path)

    def delete(self, path: str) -> None:
        self._files.delete(path)

    def move(self, source: str, target: str) -> None:
        self._files.move(source, target)

    def local_path(self, path: str) -> str | None:
        return self._files.local_path(path)
