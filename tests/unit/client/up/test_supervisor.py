"""The supervisor as a process: an error at its start is one line and an exit code."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from rayplane.client.up.state import PlatformState, write_state
from rayplane.errors import Conflict, InvalidInput
from rayplane.settings import Home


def supervise(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rayplane.client.up.supervisor"],
        env={**os.environ, "RAYPLANE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_home_without_its_state_file_is_a_one_line_error(tmp_home: Path) -> None:
    ended = supervise(tmp_home)
    assert ended.returncode == InvalidInput.exit_code
    assert "Traceback" not in ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("rayplane supervisor: ")
    assert "Run 'rayplane up'" in line


def test_a_second_supervisor_of_a_home_ends_at_once(tmp_home: Path) -> None:
    url = "http://127.0.0.1:1"
    write_state(Home(tmp_home), PlatformState(home=str(tmp_home), gateway_url=url, mlflow_url=url))
    with (tmp_home / "supervisor.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = supervise(tmp_home)
    assert ended.returncode == Conflict.exit_code
    assert "Another supervisor runs" in ended.stderr
    assert "Traceback" not in ended.stderr
