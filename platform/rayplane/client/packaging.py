"""A folder of code as a zip whose bytes depend on nothing but the files: equal content, equal content address."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rayplane.errors import InvalidInput

MAX_BYTES = 256 * 2**20
"""The gateway takes no larger package: it is for code, not for data."""

IGNORE_FILE = ".rayignore"
"""Patterns of what a folder's package leaves out; Ray's own uploads honour the same file."""

_EXCLUDED = (
    ".git", ".hg", ".svn", ".venv", "venv", "node_modules", ".rayplane", "__pycache__", "*.pyc", "*.pyo", ".mypy_cache",
    ".ruff_cache", ".pytest_cache", ".tox", ".nox", ".idea", ".vscode", ".ipynb_checkpoints", ".DS_Store", "*.egg-info",
    ".coverage", ".hypothesis", ".cache", ".env",
)  # fmt: skip
# The first instant that a zip can hold: a file's own time must not reach the package.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def is_address(value: str) -> bool:
    """Whether ``value`` is a content address (``sha256:<64 hex digits>``) rather than a folder."""
    digits = value.removeprefix("sha256:")
    return value.startswith("sha256:") and len(digits) == 64 and all(c in "0123456789abcdef" for c in digits)


def pack(folder: Path | str) -> tuple[str, bytes]:
    """``(content address, zip)`` of a folder; raises InvalidInput if it is no folder, is empty or is too large.

    Files are stored uncompressed, in the order of their paths: a compressor's version must not change the address.
    """
    base = Path(folder)
    if not base.is_dir():
        raise InvalidInput(f"'{folder}' is not a folder.", remedy="Name the folder that holds the code.")
    buffer, total, sizes = io.BytesIO(), 0, dict[str, int]()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in files(base):
            total += (size := (base / path).stat().st_size)
            sizes[path.parts[0]] = sizes.get(path.parts[0], 0) + size
            if total > MAX_BYTES:
                raise _too_large(base, sizes)
            entry = zipfile.ZipInfo(str(path), _EPOCH)
            entry.create_system = 3
            entry.external_attr = (0o755 if os.access(base / path, os.X_OK) else 0o644) << 16
            archive.writestr(entry, (base / path).read_bytes())
    if not total and not sizes:
        raise InvalidInput(f"Folder '{base}' holds no file to package.", remedy="Name the folder that holds the code.")
    data = buffer.getvalue()
    return f"sha256:{hashlib.sha256(data).hexdigest()}", data


def files(base: Path) -> Iterator[PurePosixPath]:
    """The paths, relative to ``base`` and sorted, of what belongs into its package."""
    patterns = (*_EXCLUDED, *_own_patterns(base))
    found = []
    for folder, names, leaves in os.walk(base):
        here = PurePosixPath(Path(folder).relative_to(base).as_posix())
        names[:] = [name for name in names if not _excluded(here / name, patterns)]
        found += [here / leaf for leaf in leaves if not _excluded(here / leaf, patterns)]
    # A link to nowhere and a socket are no code.
    yield from sorted(path for path in found if (base / path).is_file())


def _own_patterns(base: Path) -> list[str]:
    ignore = base / IGNORE_FILE
    if not ignore.is_file():
        return []
    lines = [line.strip() for line in ignore.read_text().splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    for pattern in patterns:
        if pattern.startswith("!"):
            raise InvalidInput(
                f"{ignore}: '{pattern}': a pattern can't take back another one.", remedy="List only what to leave out."
            )
    return patterns


def _excluded(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    for pattern in patterns:
        bare = pattern.strip("/")
        # As in .gitignore, a pattern with an inner or leading slash is a path from the root, any other one a name.
        if "/" in pattern.rstrip("/"):
            if fnmatch.fnmatchcase(str(path), bare):
                return True
        elif fnmatch.fnmatchcase(path.name, bare):
            return True
    return False


def _too_large(base: Path, sizes: dict[str, int]) -> InvalidInput:
    largest = max(sizes, key=lambda name: sizes[name])
    return InvalidInput(
        f"The package of '{base}' would have more than {MAX_BYTES // 2**20} MiB; '{largest}' takes most of it.",
        remedy=f"List in {base / IGNORE_FILE} what the job does not need, and read data from a dataset.",
    )
