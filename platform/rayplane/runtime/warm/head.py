"""Start Ray on this node with warm processes: `python -m rayplane.runtime.warm.head <folder> start --head ...`.

``<folder>``, accessible only to its owner, gets the shim and the warm interpreter's socket. The process is `ray start`
with the given arguments, except that Ray's processes start workers by the shim instead of Python.
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
"""Bytes of a script's first line that every kernel reads."""
HEAD_PATIENCE = 20.0
"""Seconds after which the warm interpreter starts even if Ray has started no worker yet."""
FAILS_SOON, MOST_FAILURES = 60.0, 5
"""Seconds within which a warm interpreter that ends has failed, and failures in a row after which starts are plain."""
RESTART_PAUSE = 5.0
"""Seconds before an ended warm interpreter is restarted; until then all starts are plain."""


def main() -> None:
    """Write the shim, keep a warm interpreter running in a thread, and run `ray start`."""
    folder = Path(sys.argv[1])
    sys.argv[1:2] = []
    shim = make_shim(folder)
    if shim is not None:
        threading.Thread(target=_keep_interpreter, args=(folder,), name="warm-interpreter", daemon=True).start()
        os.environ["PATH"] = os.pathsep.join([str(shim.parent), os.environ.get("PATH", os.defpath)])
        sys.executable = str(shim)  # Ray's services start their processes by it
    from ray.scripts import scripts

    sys.argv[0] = "ray"
    scripts.main()  # type: ignore[no-untyped-call]


def make_shim(folder: Path) -> Path | None:
    """Write the shim to ``<folder>/bin`` under each name of Python; None if Python's path is too long for a shebang."""
    first_line = f"#!{PYTHON} -IS"
    if len(first_line.encode()) >= LONGEST_SHEBANG or any(character.isspace() for character in PYTHON):
        print(f"rayplane: no warm processes: the path '{PYTHON}' is too long or has blanks", file=sys.stderr)
        return None
    bin_folder = folder / "bin"
    bin_folder.mkdir(mode=0o700, exist_ok=True)
    package_folder = str(Path(__file__).parent)
    text = (
        f"{first_line}\n"
        f"import sys\n"
        f"sys.path.insert(0, {package_folder!r})\n"
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
    """Wait for a first request, at most ``patience`` seconds; then start a warm interpreter on ``<folder>/warm.sock``.

    Requests wait until it has imported its libraries. If it ends, requests are refused, and the shims start plain.
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


def _keep_interpreter(folder: Path) -> None:
    """Keep one warm interpreter running; the kernel ends it when this thread ends, with the process."""
    failures = 0
    while failures < MOST_FAILURES:
        began = time.monotonic()
        # Not before Ray starts its first workers: the imports would slow the start of the head itself.
        start_interpreter(folder, patience=HEAD_PATIENCE).wait()
        failures = failures + 1 if time.monotonic() - began < HEAD_PATIENCE + FAILS_SOON else 0
        time.sleep(RESTART_PAUSE)
    (folder / SOCKET).unlink(missing_ok=True)
    print("rayplane: no warm processes: the warm interpreter ends again and again", file=sys.stderr)


if __name__ == "__main__":
    main()
