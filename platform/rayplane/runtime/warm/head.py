"""Start Ray on this node with warm processes: `python -m rayplane.runtime.warm.head <folder> start --head ...`.

``<folder>`` is the owner's alone; the shim and the warm interpreter's socket are made in it. The process is `ray start`
with the given arguments, but for the interpreter by which Ray's processes are told to start workers.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

NAMES = ("python", "python3", f"python3.{sys.version_info.minor}")
PYTHON = sys.executable
SOCKET = "warm.sock"
LONGEST_SHEBANG = 127
"""Bytes that every kernel reads of a script's first line."""
HEAD_PATIENCE = 20.0
"""Seconds after which the interpreter starts even if Ray has started no worker yet."""
FAILS_SOON, MOST_FAILURES = 60.0, 5
"""Seconds within which an interpreter that ends has failed; after so many in a row every start is plain."""
RESTART_PAUSE = 5.0
"""Seconds before a warm interpreter that ended is started again; until then each start is plain."""


def main() -> None:
    """Make the shim, keep the warm interpreter, become `ray start`."""
    folder = Path(sys.argv[1])
    sys.argv[1:2] = []
    shim = make_shim(folder)
    if shim is not None:
        threading.Thread(target=_keep, args=(folder,), name="warm-interpreter", daemon=True).start()
        os.environ["PATH"] = os.pathsep.join([str(shim.parent), os.environ.get("PATH", os.defpath)])
        sys.executable = str(shim)  # Ray's services start every process of theirs by it
    from ray.scripts import scripts

    sys.argv[0] = "ray"
    scripts.main()  # type: ignore[no-untyped-call]


def make_shim(folder: Path) -> Path | None:
    """Write the shim under each name of Python into ``<folder>/bin``; None where its path is too long for a script."""
    first_line = f"#!{PYTHON} -IS"
    if len(first_line.encode()) >= LONGEST_SHEBANG or any(character.isspace() for character in PYTHON):
        print(f"rayplane: no warm processes: the path '{PYTHON}' is too long or has blanks", file=sys.stderr)
        return None
    bin_folder = folder / "bin"
    bin_folder.mkdir(mode=0o700, exist_ok=True)
    here = str(Path(__file__).parent)
    text = (
        f"{first_line}\n"
        f"import sys\n"
        f"sys.path.insert(0, {here!r})\n"
        f"import shim\n"
        f"shim.main({PYTHON!r}, {str(folder / SOCKET)!r}, {str(bin_folder)!r})\n"
    )
    for name in NAMES:
        path = bin_folder / name
        path.write_text(text)
        path.chmod(0o700)
    return bin_folder / NAMES[0]


def start_interpreter(
    folder: Path, *, env: Mapping[str, str] | None = None, patience: float = 0.0
) -> subprocess.Popen[bytes]:
    """Start a warm interpreter that serves ``<folder>/warm.sock``, at the first request, or after ``patience`` seconds.

    Requests wait until it has imported its libraries. Should it end, they are refused, and start plain.
    """
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)
        select.select([listener], [], [], patience)
        number = listener.fileno()
        arguments = [str(number), str(folder), str(os.getpid())]
        command = [PYTHON, "-m", "rayplane.runtime.warm.zygote", *arguments]
        return subprocess.Popen(command, pass_fds=[number], env=env)


def _keep(folder: Path) -> None:
    """Keep one warm interpreter for as long as this process lives. The kernel ends it with this thread."""
    soon = 0
    while soon < MOST_FAILURES:
        began = time.monotonic()
        # Not before Ray starts its first workers: its imports would slow the start of the head itself.
        start_interpreter(folder, patience=HEAD_PATIENCE).wait()
        soon = soon + 1 if time.monotonic() - began < HEAD_PATIENCE + FAILS_SOON else 0
        time.sleep(RESTART_PAUSE)
    (folder / SOCKET).unlink(missing_ok=True)
    print("rayplane: no warm processes: the warm interpreter ends again and again", file=sys.stderr)


if __name__ == "__main__":
    main()
