"""A job that prints 64 MiB of random bytes, Latin-1, progress by carriage returns, and a line of 50 MB."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

PROGRAM = r"""
import random, sys, time
out, some = sys.stdout.buffer, random.Random(7)
out.write(b"begin\nZ\xfcrich\r 50 %\r100 %\r\n")
for _ in range(64):
    out.write(some.randbytes(2**20))
    out.flush()
    time.sleep(float(sys.argv[1]))
out.write(b"x" * 50_000_000 + b"\nend\n")
"""
"""The program's argument is the time in seconds to sleep after each of 64 parts."""


@cache
def printed() -> bytes:
    """The program's complete output."""
    return subprocess.run([sys.executable, "-c", PROGRAM, "0"], capture_output=True, check=True).stdout


def assert_kept(log: bytes) -> None:
    """Assert that the job's stored log is the program's output, byte for byte, after a few lines of Ray."""
    assert len(log) - len(printed()) < 1000, "beside its own lines Ray says little"
    assert log.endswith(printed()), "the kept log is what the job printed, byte for byte"
