"""Measure the memory and threads of a cluster's idle warm interpreter, and the time of a fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.starting.sides import Side

ROOT = Path(__file__).parents[2]
FORKS = 20


def interpreter(side: Side) -> dict[str, Any]:
    """Memory and threads of the cluster's warm interpreter, and the median milliseconds of a fork and its exit."""
    load = os.getloadavg()[0]
    (pid,) = side.warm_interpreters()
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    with tempfile.TemporaryDirectory(prefix="rp-bench-") as folder:
        forked = subprocess.run(
            [sys.executable, "-m", "benchmarks.starting.forks", folder, str(FORKS)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    return {
        "load": round(load, 2),
        "resident_mib": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "threads": int(status["Threads"]),
        **json.loads(forked.stdout),
    }
