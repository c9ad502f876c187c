"""Run a piece of a test as an unprivileged user if the tests run as root, else as the present user."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

NUMBER = 65533


def run_as_another(act: Callable[[], object]) -> None:
    """Call ``act`` in a forked child, which needs no more imports; fail with its traceback if it fails."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        error = b""
        try:
            os.close(reading)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NUMBER, NUMBER, NUMBER)
                os.setresuid(NUMBER, NUMBER, NUMBER)
            act()
        except BaseException:  # noqa: BLE001  the parent reports any error
            error = traceback.format_exc().encode()
        os.write(writing, error[-60_000:])
        os._exit(0 if not error else 1)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said_there = stream.read()
    assert os.waitpid(pid, 0)[1] == 0, said_there
