"""The environment of this interpreter: what is installed for it, each folder read anew only when it has changed."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata

from rayplane.nouns.environment import Environment


def here(path: Iterable[str] | None = None) -> Environment:
    """The environment with what is installed in the folders of ``path``, by default ``sys.path``.

    Called at every look at a cluster: a folder that stayed as it is costs no more than a look at its time.
    """
    found: dict[str, str] = {}
    for folder in sys.path if path is None else path:
        if os.path.isdir(folder):
            # The first on the path is the one that is imported.
            found = _installed(folder, os.stat(folder).st_mtime_ns) | found
    return _environment(tuple(sorted(found.items())))


# By folder: one that changes all the time, such as that which this process works in, has no other read again.
@lru_cache(maxsize=32)
def _installed(folder: str, changed_at: int) -> dict[str, str]:
    # Both from one reading: parsing an installed package's description is what takes long.
    described = (distribution.metadata for distribution in metadata.distributions(path=[folder]))
    return {(text["Name"] or "").lower(): text["Version"] or "" for text in described}


@lru_cache(maxsize=4)
def _environment(installed: tuple[tuple[str, str], ...]) -> Environment:
    found = dict(installed)
    listed = "\n".join(f"{name}=={version}" for name, version in installed if name != "rayplane")
    return Environment(
        interpreter="local",
        ray=found.get("ray", "none"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        lock_hash=hashlib.sha256(listed.encode()).hexdigest(),
        rayplane=found.get("rayplane", "0"),
    )
