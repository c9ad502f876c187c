"""Shared by the benchmarks: timing with the machine's load, medians, checks against bounds, progress lines."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timed:
    """One measurement."""

    seconds: float
    load: float
    """Load average of the machine over a minute, when the measurement began."""


def timed(act: Callable[[], object]) -> Timed:
    """Call ``act`` once and time it."""
    load, began = os.getloadavg()[0], time.monotonic()
    act()
    return Timed(time.monotonic() - began, load)


def summary(turns: Sequence[Timed]) -> dict[str, Any]:
    """Summarize turns: their median, and all of them with their load."""
    return {
        "median_seconds": round(statistics.median(turn.seconds for turn in turns), 3),
        "seconds": [round(turn.seconds, 3) for turn in turns],
        "load": [round(turn.load, 2) for turn in turns],
    }


def check(name: str, value: float, most: float, remark: str = "") -> dict[str, Any]:
    """Check a figure against its greatest wanted value; ``remark`` follows the bound in the output."""
    wanted = f"<= {most:g} ({remark})" if remark else f"<= {most:g}"
    return {"name": name, "value": value, "wanted": wanted, "ok": value <= most}


def check_least(name: str, value: float, least: float, remark: str = "") -> dict[str, Any]:
    """Check a figure against its least wanted value; ``remark`` follows the bound in the output."""
    wanted = f">= {least:g} ({remark})" if remark else f">= {least:g}"
    return {"name": name, "value": value, "wanted": wanted, "ok": value >= least}


def p99(taken: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(taken)[int(len(taken) * 0.99)]


def say(line: str) -> None:
    """Print a line of progress to stderr."""
    print(f"bench: {line}", file=sys.stderr, flush=True)
