"""A real local platform for tests: `rayplane up` on a home of its own, `rayplane down` at the end, and nothing left."""

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
    """A platform that runs, and the command line that speaks to it."""

    home: Home
    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables that it is brought up with."""
    command: str = COMMAND
    """The `rayplane` that it is brought up by."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of a shell that uses this home, and no other platform."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAYPLANE_") or k == "RAYPLANE_CACHE"}
        session = {k: v for k, v in os.environ.items() if k == "RAYPLANE_TEST_SESSION"}
        return {**kept, **session, "RAYPLANE_HOME": str(self.home.path), **self.settings}

    @property
    def state(self) -> state.PlatformState:
        """Ports and URLs."""
        found = state.read_state(self.home)
        assert found is not None, "the platform was never up"
        return found

    @property
    def client(self) -> Client:
        """An SDK client of this platform, whatever the environment says."""
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
        """What `rayplane status -o json` says."""
        found: dict[str, Any] = json.loads(self.rayplane("status", "-o", "json", check=False).stdout)
        return found

    def process(self, name: str) -> dict[str, Any]:
        """One process of the status."""
        return next(p for p in self.status()["processes"] if p["name"] == name)

    def left_over(self) -> list[str]:
        """Processes and temporary folders of this home that are there now."""
        pids = [f"process {pid}" for pid in processes.marked(self.home.id)]
        return pids + [str(p) for p in Path(tempfile.gettempdir()).glob(f"rp-{self.home.id}-*")]


@contextmanager
def local_platform(
    home: Path, settings: Mapping[str, str] | None = None, *, command: str = COMMAND
) -> Iterator[LocalPlatform]:
    """Bring a platform up in an empty home; at the end bring it down and assert that nothing is left."""
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
    """The processes of sessions, whatever their environment says; not those that have ended and wait for a parent."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if processes._start_time(pid) is not None and processes._session(pid) in sessions]


def until(true: Callable[[], object], *, seconds: float, what: str) -> None:
    """Wait until something is so; fail saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so after {seconds:.0f} s: {what}"
        time.sleep(0.2)
