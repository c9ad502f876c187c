"""Read the environment of this interpreter: its installed distributions, cached by folder until it changes."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata

from rayplane.nouns.environment import Environment


def of_this_interpreter(path: Iterable[str] | None = None) -> Environment:
    """The environment with the distributions in the folders of ``path``, by default ``sys.path``.

    Called at every look at a cluster: an unchanged folder costs only a stat.
    """
    versions: dict[str, str] = {}
    for folder in sys.path if path is None else path:
        if os.path.isdir(folder):
            # The first one on the path is imported.
            versions = _installed(folder, os.stat(folder).st_mtime_ns) | versions
    return _environment(tuple(sorted(versions.items())))


# Cached by folder, so that one which changes all the time, such as the working folder, causes no reads of others.
@lru_cache(maxsize=32)
def _installed(folder: str, changed_at: int) -> dict[str, str]:
    # Name and version from one parse: parsing a distribution's metadata is the slow part.
    described = (distribution.metadata for distribution in metadata.distributions(path=[folder]))
    return {(text["Name"] or "").lower(): text["Version"] or "" for text in described}


@lru_cache(maxsize=4)
def _environment(installed: tuple[tuple[str, str], ...]) -> Environment:
    versions = dict(installed)
    listed = "\n".join(f"{name}=={version}" for name, version in installed if name != "rayplane")
    return Environment(
        interpreter="local",
        ray=versions.get("ray", "none"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        lock_hash=hashlib.sha256(listed.encode()).hexdigest(),
        rayplane=versions.get("rayplane", "0"),
    )
