"""Keep an image that containerd unpacked for the next node: 60,000 hard links take seconds, unpacking up to minutes.

Files of an unpacked layer are never written again, so that nodes may share them; databases are copied.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_KEPT = 2


def give(kept: Path, root: Path) -> bool:
    """Fill a new containerd's root with what was kept; False if there is nothing, or it lies on another file system."""
    if not kept.is_dir() or not _same_disk(kept, root.parent):
        return False
    root.mkdir()
    _link(kept, root)
    kept.touch()
    return True


def keep(root: Path, kept: Path) -> None:
    """Keep the root of a containerd that is down and has no containers, unless it lies on another file system."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    if kept.exists() or not _same_disk(kept.parent, root):
        return
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".partial-") as partial:
        made = Path(partial, "root")
        made.mkdir()
        _link(root, made)
        os.replace(made, kept)
    others = [path for path in kept.parent.iterdir() if not path.name.startswith(".")]
    for old in sorted(others, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old)


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _link(source: Path, target: Path) -> None:
    # It keeps owners, modes and devices, which Python's copytree does not.
    subprocess.run(["cp", "--archive", "--link", f"{source}/.", str(target)], check=True)
    for copied in target.rglob("io.containerd.*/*.db"):
        copied.unlink()
        shutil.copy2(source / copied.relative_to(target), copied)
