"""Environment variables that keep Ray's children from crashing: Ray forks them while other threads run gRPC."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rayplane.gateway.backends.base import RAY_ENVIRONMENT

pytestmark = pytest.mark.faults
CHILDREN = 500
"""Number of children; without those variables 2 to 4 % of them crash."""


@pytest.mark.timeout(180)
def test_no_child_crashes_before_its_program_begins() -> None:
    command = [sys.executable, "-m", "tests.support.children_under_grpc", str(CHILDREN)]
    done = subprocess.run(
        command, env={**os.environ, **RAY_ENVIRONMENT}, timeout=120, check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {"7": CHILDREN}
