"""Find the local platform's programs: Python packages of this environment, binaries on PATH or in the tools cache."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from rayplane.errors import Unsupported

NEEDED = {"fastapi": "the gateway", "dbos": "the gateway", "mlflow": "MLflow", "ray": "team clusters"}
"""Module -> part of the local platform that needs it."""


def cache() -> Path:
    """Folder of downloaded tools: below RAYPLANE_CACHE, else below ``rayplane`` in XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("RAYPLANE_CACHE")
    if named:
        return Path(named).expanduser() / "tools"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rayplane" / "tools"


def find(name: str) -> Path | None:
    """An executable by name: on PATH, else anywhere in the tools cache; None if there is none."""
    on_path = shutil.which(name)
    if on_path:
        return Path(on_path).absolute()
    # A Debian package unpacks an executable init script of the same name under etc/: only a bin folder counts.
    executables = (p for p in sorted(cache().glob(f"*/**/bin/{name}")) if p.is_file() and os.access(p, os.X_OK))
    return next(executables, None)


def require_packages() -> None:
    """Raise Unsupported, naming missing packages, if this environment has only the thin client."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        described = ", ".join(f"'{name}' ({NEEDED[name]})" for name in missing)
        raise Unsupported(
            f"The local platform needs {described}, which this Python environment lacks.",
            remedy="Install it with: pip install 'rayplane[local]'",
        )
