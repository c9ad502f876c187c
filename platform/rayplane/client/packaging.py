"""Pack a folder of code as a zip whose bytes depend only on the files: equal content has an equal content address."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import io
import os
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rayplane.errors import InvalidInput

MAX_BYTES = 256 * 2**20
"""Size of the largest package that the gateway accepts: packages are for code, not for data."""

IGNORE_FILE = ".rayignore"
"""File in a folder with patterns of paths to leave out of its package; Ray's own uploads honour the same file."""

_EXCLUDED = (
    ".git", ".hg", ".svn", ".venv", "venv", "node_modules", ".rayplane", "__pycache__", "*.pyc", "*.pyo", ".mypy_cache",
    ".ruff_cache", ".pytest_cache", ".tox", ".nox", ".idea", ".vscode", ".ipynb_checkpoints", ".DS_Store", "*.egg-info",
    ".coverage", ".hypothesis", ".cache", ".env", ".env.*",
)  # fmt: skip
# The earliest time that a zip can store; files' real times must not change the package.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def is_address(value: str) -> bool:
    """True if ``value`` is a content address (``sha256:<64 hex digits>``) rather than a folder."""
    digits = value.removeprefix("sha256:")
    return value.startswith("sha256:") and len(digits) == 64 and all(c in "0123456789abcdef" for c in digits)


def pack(folder: Path | str, *, without: Collection[Path] = ()) -> tuple[str, bytes]:
    """``(content address, zip)`` of a folder, leaving out the paths in ``without``, such as a token's file.

    Files are stored uncompressed, sorted by path, so that the version of a compressor can't change the address. Raises
    InvalidInput if it is no folder, is empty or too large, and for an entry that can't be packaged, naming it: a link
    that leads out of the folder, an unreadable file, a name that is not UTF-8.
    """
    base = Path(folder)
    try:
        if not base.is_dir():
            raise InvalidInput(f"'{folder}' is not a folder.", remedy="Name the folder that holds the code.")
        data = _zip(base, without)
    except OSError as exc:
        raise InvalidInput(
            f"'{exc.filename or base}' can't be packaged: {exc.strerror or exc}.",
            remedy=f"Make it readable, or leave it out by {base / IGNORE_FILE}.",
        ) from exc
    return f"sha256:{hashlib.sha256(data).hexdigest()}", data


def files(base: Path, without: Collection[Path] = ()) -> list[PurePosixPath]:
    """The files that belong in the package of ``base``: relative paths, sorted."""
    root = base.resolve()
    excluded = tuple(path.resolve() for path in without)
    # An excluded folder that contains ``base`` itself, such as the home, excludes nothing.
    inside = tuple(path for path in excluded if path.is_relative_to(root))
    return sorted(_Tree(base, root, (*_EXCLUDED, *_ignore_patterns(base)), inside).below(PurePosixPath(), (root,)))


def _zip(base: Path, without: Collection[Path]) -> bytes:
    buffer, total, sizes = io.BytesIO(), 0, dict[str, int]()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in files(base, without):
            total += (size := (base / path).stat().st_size)
            sizes[path.parts[0]] = sizes.get(path.parts[0], 0) + size
            if total > MAX_BYTES:
                raise _too_large(base, sizes)
            entry = zipfile.ZipInfo(str(path), _EPOCH)
            entry.create_system = 3
            entry.external_attr = (0o755 if os.access(base / path, os.X_OK) else 0o644) << 16
            archive.writestr(entry, (base / path).read_bytes())
    if not sizes:
        raise InvalidInput(f"Folder '{base}' holds no file to package.", remedy="Name the folder that holds the code.")
    return buffer.getvalue()


@dataclass(frozen=True)
class _Tree:
    """A folder that is searched for the files of its package."""

    base: Path
    root: Path
    """``base`` with links resolved."""
    patterns: tuple[str, ...]
    without: tuple[Path, ...]
    """Excluded paths, with links resolved."""

    def below(self, here: PurePosixPath, above: tuple[Path, ...]) -> Iterator[PurePosixPath]:
        """The package's files in folder ``here``; ``above`` are the resolved paths of ``here`` and its ancestors."""
        for entry in sorted(os.scandir(self.base / here), key=lambda entry: entry.name):
            path = here / entry.name
            if _excluded(path, self.patterns):
                continue
            real = self._target(path) if entry.is_symlink() else above[-1] / entry.name
            if real is None or any(real.is_relative_to(excluded) for excluded in self.without):
                continue
            if real.is_dir():
                if real in above:
                    raise self._refusal(path, "is a link to a folder that it lies in")
                yield from self.below(path, (*above, real))
            elif real.is_file():  # not a socket, say
                yield self._require_utf8(path)

    def _target(self, path: PurePosixPath) -> Path | None:
        """The resolved target of a link; None if it is broken or excluded."""
        try:
            real = (self.base / path).resolve(strict=True)
        except RuntimeError:
            return None  # a link to itself: Python 3.13 raises ELOOP instead
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None  # a broken link, such as an editor's lock
            raise
        if not real.is_relative_to(self.root):
            raise self._refusal(path, f"is a link out of the folder, to '{real}'")
        parts = PurePosixPath(real.relative_to(self.root))
        return None if any(_excluded(part, self.patterns) for part in (parts, *parts.parents)) else real

    def _require_utf8(self, path: PurePosixPath) -> PurePosixPath:
        try:
            str(path).encode()
        except UnicodeEncodeError as exc:
            raise InvalidInput(
                f"{str(self.base / path)!r} can't be packaged: its name is not UTF-8.",
                remedy=f"Rename it, or leave it out by {self.base / IGNORE_FILE}.",
            ) from exc
        return path

    def _refusal(self, path: PurePosixPath, what: str) -> InvalidInput:
        return InvalidInput(
            f"'{self.base / path}' {what}.",
            remedy=f"Put a copy in its place, or leave it out: write /{path} into {self.base / IGNORE_FILE}.",
        )


def _ignore_patterns(base: Path) -> list[str]:
    ignore = base / IGNORE_FILE
    if not ignore.is_file():
        return []
    try:
        lines = [line.strip() for line in ignore.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"'{ignore}' is not UTF-8.", remedy="Save it as UTF-8.") from exc
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
        # As in .gitignore, a pattern with an inner or leading slash is a path from the root, any other is a name.
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
