"""The ways to run a job on a cluster, each timed until its first line arrives and until the job has ended."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.starting.sides import CLUSTER, TEAM, Side
from rayplane.nouns.job import TERMINAL
from tests.support.local_platform import COMMAND

FIRST = "FIRST"
ENTRYPOINT = ("python", "-c", f"print({FIRST!r})")
RAY = str(Path(sys.executable).with_name("ray"))
ENDED = {phase.upper() for phase in TERMINAL}
"""Statuses of an ended job in Ray's job API."""
POLL = 0.02
"""Seconds between two requests to it."""
MOST_SECONDS = 300.0


@dataclass(frozen=True)
class Turn:
    """One job, its seconds counted from before it was submitted."""

    load: float
    """Load average of the machine over a minute, when the job was submitted."""
    first: float
    """Seconds until its first line."""
    end: float
    """Seconds until the command ended, or the API reported the job's end."""


def by_rayplane(side: Side, entrypoint: Sequence[str] = ENTRYPOINT, folder: Path | None = None) -> Turn:
    """Run a job by `rayplane job submit`, with the code of ``folder`` if it is set."""
    package = [] if folder is None else ["--working-dir", str(folder)]
    command = [COMMAND, "job", "submit", "--team", TEAM, "--cluster", CLUSTER, *package, "--", *entrypoint]
    return _by_command(command, side.platform.env)


def by_sdk(side: Side) -> Turn:
    """Run a job by the SDK: submit, follow the log, wait."""
    load, began = os.getloadavg()[0], time.monotonic()
    job = side.api.jobs.submit(TEAM, {"entrypoint": shlex.join(ENTRYPOINT), "cluster": CLUSTER}).metadata.name
    log, first = "", None
    for text in side.api.jobs.logs(TEAM, job):
        log += text
        if first is None and FIRST in log:
            first = time.monotonic()
    side.api.jobs.wait(TEAM, job)
    return _turn(load, began, first, log)


def by_gateway(side: Side) -> Turn:
    """Run a job by stock `ray job submit` through the gateway."""
    address = side.platform.rayplane("cluster", "address", CLUSTER, "--jobs", "--team", TEAM, "-o", "json")
    return _by_command([RAY, "job", "submit", "--", *ENTRYPOINT], _stock(side, json.loads(address.stdout)["jobs"]))


def by_stock(side: Side) -> Turn:
    """Run a job by stock `ray job submit` directly to the head, without the gateway."""
    endpoint = side.endpoint
    assert endpoint.token_path is not None
    address = {
        "RAY_API_SERVER_ADDRESS": endpoint.dashboard_url,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": endpoint.token_path,
    }
    return _by_command([RAY, "job", "submit", "--", *ENTRYPOINT], _stock(side, address))


def by_rest(side: Side) -> Turn:
    """Run a job by the head's own REST API of jobs: poll the log, then the status."""
    endpoint = side.endpoint
    assert endpoint.token_path is not None
    headers = {"Authorization": f"Bearer {Path(endpoint.token_path).read_text().strip()}"}
    with httpx.Client(base_url=endpoint.dashboard_url, headers=headers, timeout=60, trust_env=False) as http:
        load, began = os.getloadavg()[0], time.monotonic()
        answer = http.post("/api/jobs/", json={"entrypoint": shlex.join(ENTRYPOINT)}).raise_for_status().json()
        path = f"/api/jobs/{answer['submission_id']}"
        _poll(lambda: FIRST in http.get(f"{path}/logs").raise_for_status().json()["logs"], "the job's first line")
        first = time.monotonic()
        _poll(lambda: http.get(path).raise_for_status().json()["status"] in ENDED, "the job's end")
    return _turn(load, began, first, "")


WARM_WAYS: Mapping[str, Callable[[Side], Turn]] = {
    "rayplane job submit": by_rayplane,
    "SDK": by_sdk,
    "stock ray job submit, through the gateway": by_gateway,
    "stock ray job submit, to the head": by_stock,
    "Ray's job API": by_rest,
}
PLAIN_WAYS = {
    name: WARM_WAYS[name] for name in ("rayplane job submit", "stock ray job submit, to the head", "Ray's job API")
}


def _by_command(command: Sequence[str], env: Mapping[str, str]) -> Turn:
    load, began, first, log = os.getloadavg()[0], time.monotonic(), None, []
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            if first is None and line.strip() == FIRST:
                first = time.monotonic()
    if process.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {process.returncode}:\n{''.join(log)}")
    return _turn(load, began, first, "".join(log))


def _stock(side: Side, address: Mapping[str, str]) -> dict[str, str]:
    """The environment of a stock `ray` command, unbuffered so that it writes each line at once, as to a terminal."""
    inherited = {name: value for name, value in side.platform.env.items() if not name.startswith(("RAY_", "RAYPLANE_"))}
    return {**inherited, "PYTHONUNBUFFERED": "1", **address}


def _poll(probe: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while not probe():
        if time.monotonic() > deadline:
            raise SystemExit(f"not there after {MOST_SECONDS:.0f} s: {what}")
        time.sleep(POLL)


def _turn(load: float, began: float, first: float | None, log: str) -> Turn:
    if first is None:
        raise SystemExit(f"a job ended without its first line:\n{log}")
    return Turn(load, first - began, time.monotonic() - began)
