"""Follow the logs of running jobs all at once: count lost and repeated lines; measure lag, memory and CPU over time.

A real local platform with one cluster. Each job is a shell that prints a numbered line with its time every half second,
without starting a process for it; this process follows all logs through the gateway, as Ray's clients do.
"""

from __future__ import annotations

import asyncio
import shlex
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websockets
from websockets.asyncio.client import connect

from benchmarks.at_the_gateway.jobs import CLUSTER, TEAM
from benchmarks.at_the_gateway.process import Gateway
from benchmarks.shared.figures import p99, say
from rayplane.client.sdk import Client
from tests.support.local_platform import local_platform

EVERY = 0.5
"""Seconds between two lines of a job."""
PARTS = 5
"""Equal parts of the time. In the first, followers catch up with their logs; the second and the last are compared."""
AT_ONCE = 10
"""Jobs that are submitted together, before waiting until they run."""
# `read` with a timeout, from a pipe without a writer, sleeps without starting a process.
_LINES = (
    "exec 9<> <(:); "
    'until [[ -e {stop} ]]; do echo "line $((++n)) $EPOCHREALTIME"; read -rt {every} -u 9; done; '
    "echo end $n"
)


@dataclass
class Log:
    """The lines received of one log, and their faults and lags."""

    lines: int = 0
    faults: list[str] = field(default_factory=list)
    lags: list[tuple[float, float]] = field(default_factory=list)
    """(time of a line's arrival, seconds since it was printed)."""
    ended: bool = False

    def add(self, line: str, now: float) -> None:
        """Take the next line."""
        if line.startswith("end "):
            self.ended = line == f"end {self.lines}" and self.lines > 0
            return
        if not line.startswith("line "):
            return  # a line of Ray's own
        _, number, printed = line.split(" ")
        if number != str(self.lines + 1):
            self.faults.append(f"after line {self.lines} came {line[:40]!r}")
        self.lines += 1
        self.lags.append((now, now - float(printed)))


def slope(figures: dict[str, Any]) -> dict[str, float]:
    """Increase from the second to the last part of the time: of the median lag in seconds, memory in MB, cores."""
    early, late = figures["by_part"][1], figures["by_part"][-1]
    return {name: round(late[name] - early[name], 3) for name in ("median_lag_seconds", "resident_mb", "cores")}


def measure(count: int, seconds: float) -> dict[str, Any]:
    """Run ``count`` jobs, follow their logs for ``seconds``, and return the figures."""
    with (
        tempfile.TemporaryDirectory(prefix="rp-bench-") as folder,
        local_platform(Path(folder) / "home") as platform,
        platform.client as api,
    ):
        stop = Path(folder) / "stop"
        names = _start(api, count, stop)
        port = int(platform.state.gateway_url.rpartition(":")[2])
        token = platform.home.token.read_text().strip()
        server = Gateway(platform.process("gateway")["pid"], port, token, platform.home.path)
        say(f"{count} logs are followed for {seconds:g} s")
        return asyncio.run(_follow_all(server, names, seconds, stop))


def _start(api: Client, count: int, stop: Path) -> list[str]:
    """Make a team and its cluster, and start the jobs, a few at a time."""
    api.teams.apply(TEAM, spec={"quota": {"cpu": 32, "memory": "32Gi", "clusters": 1}})
    api.teams.wait("", TEAM)
    api.clusters.apply(TEAM, CLUSTER, {"size": "small"})
    api.clusters.wait(TEAM, CLUSTER)
    script = _LINES.format(stop=shlex.quote(str(stop)), every=EVERY)
    spec = {"entrypoint": f"bash -c {shlex.quote(script)}", "cluster": CLUSTER, "tracked": False}
    names: list[str] = []
    while len(names) < count:
        new = [api.jobs.submit(TEAM, spec).metadata.name for _ in range(min(AT_ONCE, count - len(names)))]
        for name in new:
            api.jobs.wait(TEAM, name, phases={"Running"})
        names += new
        if len(names) % 50 == 0:
            say(f"{len(names)} jobs run")
    return names


async def _follow_all(server: Gateway, names: Sequence[str], seconds: float, stop: Path) -> dict[str, Any]:
    logs = {name: Log() for name in names}
    following = [asyncio.ensure_future(_follow(server, name, log)) for name, log in logs.items()]
    began, used, resident = time.time(), [server.cpu_seconds()], [server.resident_mb()]
    for _ in range(PARTS):
        await asyncio.sleep(seconds / PARTS)
        used.append(server.cpu_seconds())
        resident.append(server.resident_mb())
    say("the jobs end")
    await asyncio.to_thread(stop.touch)
    await asyncio.gather(*following)
    part = seconds / PARTS
    lags: list[list[float]] = [[] for _ in range(PARTS)]
    for log in logs.values():
        for came, lag in log.lags:
            if (number := int((came - began) / part)) < PARTS:
                lags[number].append(lag)
    return {
        "logs": len(logs),
        "seconds": seconds,
        "lines": sum(log.lines for log in logs.values()),
        "faults": [f"{name}: {fault}" for name, log in logs.items() for fault in log.faults][:20],
        "faulty_logs": sum(bool(log.faults) or not log.ended for log in logs.values()),
        "by_part": [
            {
                "median_lag_seconds": round(statistics.median(lags[number]), 3),
                "p99_lag_seconds": round(p99(lags[number]), 3),
                "cores": round((used[number + 1] - used[number]) / part, 3),
                "resident_mb": round(resident[number + 1], 1),
            }
            for number in range(PARTS)
        ],
    }


async def _follow(server: Gateway, name: str, log: Log) -> None:
    """Follow a log from its start to its end over one connection."""
    url = f"ws://127.0.0.1:{server.port}/{TEAM}/{CLUSTER}/api/jobs/{name}/logs/tail"
    headers = {"Authorization": f"Bearer {server.token}"}
    left = ""
    async with connect(url, additional_headers=headers, max_size=None, open_timeout=120, ping_interval=None) as socket:
        try:
            while True:
                text = left + str(await socket.recv())
                *lines, left = text.split("\n")
                now = time.time()
                for line in lines:
                    log.add(line, now)
        except websockets.ConnectionClosedOK:
            return
