"""A real local platform for tests: `rayplane up` on its own home, `rayplane down` at the end, and a check for leaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayplane import processes
from rayplane.client.sdk import Client
from rayplane.client.up import state
from rayplane.settings import Home

COMMAND = str(Path(sys.executable).with_name("rayplane"))


@dataclass
class LocalPlatform:
    """A running platform, and its command line."""

    home: Home
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for `rayplane up`."""
    command: str = COMMAND
    """Path of the `rayplane` command to use."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of a shell that uses this home and no other platform."""
        base = {k: v for k, v in os.environ.items() if not k.startswith("RAYPLANE_") or k == "RAYPLANE_CACHE"}
        session = {k: v for k, v in os.environ.items() if k == "RAYPLANE_TEST_SESSION"}
        return {**base, **session, "RAYPLANE_HOME": str(self.home.path), **self.settings}

    @property
    def state(self) -> state.PlatformState:
        """Ports and URLs."""
        platform_state = state.read_state(self.home)
        assert platform_state is not None, "the platform was never up"
        return platform_state

    @property
    def client(self) -> Client:
        """An SDK client of this platform, independent of the environment."""
        return Client(self.state.gateway_url, self.home.token)

    def rayplane(
        self, *arguments: str, check: bool = True, timeout: float = 300, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against this platform."""
        done = subprocess.run(
            [self.command, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.env,
            cwd=cwd,
            check=False,
        )
        assert not check or done.returncode == 0, f"rayplane {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done

    def status(self) -> dict[str, Any]:
        """The parsed output of `rayplane status -o json`."""
        answer: dict[str, Any] = json.loads(self.rayplane("status", "-o", "json", check=False).stdout)
        return answer

    def process(self, name: str) -> dict[str, Any]:
        """One process of the status."""
        return next(p for p in self.status()["processes"] if p["name"] == name)

    def left_over(self) -> list[str]:
        """Processes and temporary folders of this home that exist now."""
        pids = [f"process {pid}" for pid in processes.marked(self.home.id)]
        return pids + [str(p) for p in Path(tempfile.gettempdir()).glob(f"rp-{self.home.id}-*")]


@contextmanager
def local_platform(
    home: Path, settings: Mapping[str, str] | None = None, *, command: str = COMMAND
) -> Iterator[LocalPlatform]:
    """Start a platform in an empty home; at the end stop it and assert that nothing is left."""
    made = LocalPlatform(Home(home), settings or {}, command)
    try:
        made.rayplane("up")
        yield made
    finally:
        sessions = {processes._session(pid) for pid in processes.marked(made.home.id)}
        made.rayplane("down")
        assert made.left_over() == []
        assert running_in(sessions) == []


def running_in(sessions: Collection[int | None]) -> list[int]:
    """Pids of processes in these sessions, marked or not, except zombies."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if processes._start_time(pid) is not None and processes._session(pid) in sessions]


def until(true: Callable[[], object], *, seconds: float, what: str) -> None:
    """Wait until ``true`` returns a true value; fail after ``seconds``, naming ``what``."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so after {seconds:.0f} s: {what}"
        time.sleep(0.2)
