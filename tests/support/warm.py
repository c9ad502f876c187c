"""A warm interpreter for tests, from which entrypoints and the workers of a local Ray are forked."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayplane.runtime.warm import head, shim

WAIT = 120.0
IS_WARM = "import sys; print('pandas' in sys.modules)"
"""Code that prints True if it runs in a forked child."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Warm:
    """A warm interpreter and its shim."""

    folder: Path
    process: subprocess.Popen[bytes]
    python: Path

    def environment(self, **more: str) -> dict[str, str]:
        """The environment that Ray's job supervisor would give an entrypoint."""
        path = os.pathsep.join([str(self.python.parent), os.environ["PATH"]])
        return {**environment(), "PATH": path, shim.ENTRYPOINT.decode(): "{}", **more}

    def start(
        self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start an entrypoint."""
        return subprocess.Popen(
            [self.python, *arguments],
            env=self.environment(**(env or {})),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run an entrypoint to its end."""
        process = self.start(*arguments, env=env, cwd=cwd)
        out, err = process.communicate(timeout=WAIT)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def code(self, text: str, **env: str) -> str:
        """Run code and return its output; it must succeed."""
        done = self.run("-c", text, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def environment() -> dict[str, str]:
    """The node's environment: that of the tests, with few threads."""
    return {**os.environ, **dict.fromkeys(THREADS, "1")}


@contextmanager
def warm_interpreter(folder: Path) -> Iterator[Warm]:
    """Start a warm interpreter in an empty folder; at the end assert that it still runs, and stop it."""
    python = head.make_shim(folder)
    assert python is not None, "the path of this interpreter is too long for a script"
    process = head.start_interpreter(folder, env=environment())
    made = Warm(folder, process, python)
    try:
        deadline = time.monotonic() + WAIT
        while made.code(IS_WARM) != "True":  # on a busy machine its imports may outlast a start's patience
            assert time.monotonic() < deadline
        yield made
        assert process.poll() is None, "a child took the warm interpreter down"
    finally:
        process.terminate()
        process.wait(WAIT)


@contextmanager
def local_ray(warm: Warm, **options: Any) -> Iterator[None]:
    """Start Ray in this process, with workers forked from the warm interpreter; shut it down at the end."""
    import ray

    ray.shutdown()
    with (
        pytest.MonkeyPatch.context() as patch,
        # A short path, since that of a socket below it may have at most 107 bytes.
        tempfile.TemporaryDirectory(prefix="rp-t-", dir="/tmp", ignore_cleanup_errors=True) as short,
    ):
        for name in THREADS:
            patch.setenv(name, "1")
        with pytest.MonkeyPatch.context() as starting:
            starting.setattr(sys, "executable", str(warm.python))  # Ray starts its workers by it
            ray.init("local", include_dashboard=False, log_to_driver=False, _temp_dir=short, **options)
        try:
            yield
        finally:
            ray.shutdown()
