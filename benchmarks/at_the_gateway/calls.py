"""Measure small calls of Ray's clients at a fixed rate, compared with a bare server that answers the same bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.at_the_gateway.asking import Connection
from benchmarks.at_the_gateway.bare import bare
from benchmarks.at_the_gateway.jobs import CLUSTER, TEAM, name_of
from benchmarks.at_the_gateway.process import Gateway
from benchmarks.shared.figures import p99, say

EACH_SECOND = 100


def measure(server: Gateway, jobs: int, seconds: float) -> dict[str, Any]:
    """Ask the gateway and the bare server in turns for a job's record, 100 times a second, and return the figures."""
    say("small calls, 100 a second")
    with server.connect() as ours:
        answer = ours.ask(_path(0))
        with bare(server.home / "bare", answer) as port, Connection(port, "") as theirs:
            taken = {"gateway": list[float](), "bare": list[float]()}
            began = time.monotonic()
            for number in range(int(seconds * EACH_SECOND)):
                time.sleep(max(0.0, began + number / EACH_SECOND - time.monotonic()))
                for name, connection in (("gateway", ours), ("bare", theirs)):
                    asked = time.monotonic()
                    connection.ask(_path(number * 7 % jobs))
                    taken[name].append(time.monotonic() - asked)
            took = time.monotonic() - began
    calls = {name: _percentiles(sorted(each)) for name, each in taken.items()}
    return {
        "per_second": round(len(taken["gateway"]) / took, 1),
        "bytes": len(answer),
        **calls,
        "p99_seconds_more": round(calls["gateway"]["p99_seconds"] - calls["bare"]["p99_seconds"], 5),
    }


def _path(number: int) -> str:
    return f"/{TEAM}/{CLUSTER}/api/jobs/{name_of(number)}"


def _percentiles(taken: Sequence[float]) -> dict[str, float]:
    return {
        "median_seconds": round(taken[len(taken) // 2], 5),
        "p99_seconds": round(p99(taken), 5),
        "longest_seconds": round(taken[-1], 5),
    }
