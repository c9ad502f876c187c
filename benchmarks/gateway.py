"""Measure one gateway process: lists, single objects, Ray's list of jobs, uploads, waiting jobs, hostile callers.

python -m benchmarks.gateway [--jobs N] [--waiting N] [--seconds S] [--part NAME ...]

Prints JSON. One gateway in a new home, with one worker as `rayplane up` starts it, on a store that holds a team, its
suspended cluster and 10,000 jobs that have ended; requests come over loopback on keep-alive connections. Parts:

- lists: lists of 100 jobs (whole, and in the summary view), single jobs, and the route that stock `ray job list` uses.
- calls: a job's record as Ray's clients ask for it, 100 times a second, compared with a bare server of the same bytes.
- upload: packages of 500 MB, checked and stored, compared with a bare server that writes them to the disk.
- waiting: CPU of the gateway at rest, then with jobs that wait for the suspended cluster, then after their stop.
- abuse: the time of /healthz while callers send 64 MiB of headers, hold 500 slow connections, follow a log 300 times,
  ask for 60 plans of clusters at a server that answers a byte at a time, and send bodies of 300 MiB, each alone and all
  at once; the gateway's memory in the meantime.
- followed: on a real local platform, 200 jobs that print, whose logs are stored and followed at once for 5 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.at_the_gateway import abused, calls, followed, uploads
from benchmarks.at_the_gateway.asking import Connection, latencies, rate
from benchmarks.at_the_gateway.jobs import CLUSTER, TEAM, fill, name_of
from benchmarks.at_the_gateway.process import Gateway, gateway
from benchmarks.shared.figures import check, check_least, p99, say

PARTS = ("lists", "calls", "upload", "waiting", "abuse", "followed")
CONNECTIONS = 4
JOBS = f"/v1/teams/{TEAM}/jobs"
RAY_JOBS = f"/{TEAM}/{CLUSTER}/api/jobs/"
RAY_ROUNDS = 200
SETTLE = 10.0
PATIENCE = 300.0
LEAST_LISTS, LEAST_SUMMARIES, LEAST_GETS = 300.0, 1000.0, 1000.0
MOST_RAY_LIST, MOST_WAITING_CORES = 0.2, 0.02
MOST_CALL_MORE, LEAST_OF_DIRECT, MOST_UPLOAD_MB = 0.003, 0.8, 60.0
FOLLOWED_LOGS, FOLLOWED_SECONDS = 200, 300.0
MOST_SLOPE_SECONDS, MOST_SLOPE_MB, MOST_SLOPE_CORES = 0.2, 10.0, 0.1
MOST_HEALTHZ, MOST_RESIDENT_MB = 0.2, 400.0


def measure(jobs: int, waiting: int, logs: int, seconds: float, parts: Collection[str]) -> dict[str, Any]:
    """Measure the parts, and return their figures and checks."""
    load = os.getloadavg()[0]
    figures: dict[str, Any] = {}
    if "followed" in parts:
        figures["followed"] = followed.measure(logs, FOLLOWED_SECONDS)
    if set(parts) - {"followed"}:
        figures |= _of_one_process(jobs, waiting, seconds, parts)
    return {
        "figure": "what one gateway process takes",
        "jobs": jobs,
        "load": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        **figures,
        "checks": list(_checks(figures)),
    }


def _of_one_process(jobs: int, waiting: int, seconds: float, parts: Collection[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rp-bench-") as folder:
        say(f"{jobs} jobs are put into a new store")
        with gateway(Path(folder), partial(fill, ended=jobs), MAX_PACKAGE_BYTES=str(2 * uploads.SIZE)) as server:
            if "waiting" in parts:  # first, since the gateway might still be at work for the other parts
                figures["waiting"] = _waiting(server, waiting, seconds)
            if "lists" in parts:
                figures["lists"] = _lists(server, jobs, seconds)
            if "calls" in parts:
                figures["calls"] = calls.measure(server, jobs, seconds)
            if "upload" in parts:
                figures["upload"] = uploads.measure(server)
            if "abuse" in parts:
                figures["abuse"] = abused.measure(server, seconds)
            figures["resident_mb"] = round(server.resident_mb(), 1)
    return figures


def _lists(server: Gateway, jobs: int, seconds: float) -> dict[str, Any]:
    with server.connect() as connection:
        cursors = _cursors(connection)
        listed = json.loads(connection.ask(RAY_JOBS))
        say("the list that Ray's clients ask for")
        taken = latencies(connection, RAY_JOBS, RAY_ROUNDS)
    paths = [f"{JOBS}?limit=100&cursor={cursor}" for cursor in cursors]
    asked = partial(rate, server, connections=CONNECTIONS, seconds=seconds)
    say("lists of 100, whole and in summary; single jobs")
    return {
        "list_of_100": asked(path=lambda number: paths[number % len(paths)]),
        "summary_of_100": asked(path=lambda number: f"{paths[number % len(paths)]}&view=summary"),
        "get_one": asked(path=lambda number: f"{JOBS}/{name_of(number * 7 % jobs)}"),
        "ray_job_list": {
            "jobs": len(listed),
            "median_seconds": round(taken[len(taken) // 2], 4),
            "p99_seconds": round(p99(taken), 4),
        },
    }


def _cursors(connection: Connection) -> list[str]:
    """Cursors of all pages of 100 jobs but the first."""
    cursors: list[str] = []
    page = json.loads(connection.ask(f"{JOBS}?limit=100"))
    while page["next_cursor"] is not None:
        cursors.append(page["next_cursor"])
        page = json.loads(connection.ask(f"{JOBS}?limit=100&cursor={cursors[-1]}"))
    return cursors[:-1] or cursors


def _waiting(server: Gateway, count: int, seconds: float) -> dict[str, Any]:
    time.sleep(SETTLE)
    say("the gateway at rest")
    rest = server.cores(seconds)
    say(f"{count} jobs wait for a suspended cluster")
    names = [f"waiting-{number:05}" for number in range(count)]
    with server.connect() as connection:
        for name in names:
            spec = {"entrypoint": "true", "cluster": CLUSTER, "tracked": False}
            connection.ask(JOBS, {"metadata": {"name": name}, "spec": spec})
        _await(connection, names, lambda job: bool(job["status"]["conditions"]))
    time.sleep(SETTLE)
    waiting = server.cores(seconds)
    say("all of them are stopped")
    began = time.monotonic()
    with server.connect() as connection:  # a new one: the gateway closes an idle connection
        for name in names:
            connection.ask(f"{JOBS}/{name}/stop", {})
        _await(connection, names, lambda job: job["status"]["phase"] == "Stopped")
    stopping = time.monotonic() - began
    time.sleep(SETTLE)
    return {
        "jobs": count,
        "cores_at_rest": round(rest, 4),
        "cores_with_waiting_jobs": round(waiting, 4),
        "cores_of_waiting_jobs": round(max(0.0, waiting - rest), 4),
        "seconds_to_stop_all": round(stopping, 2),
        "cores_with_stopped_jobs": round(server.cores(seconds), 4),
    }


def _await(connection: Connection, names: list[str], done: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    for name in names:
        while not done(json.loads(connection.ask(f"{JOBS}/{name}"))):
            if time.monotonic() > deadline:
                raise SystemExit(f"job '{name}' was not looked at in {PATIENCE:g} s")
            time.sleep(0.1)


def _checks(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The checks of the parts that were measured."""
    if "lists" in figures:
        lists = figures["lists"]
        yield check_least("lists of 100 jobs a second", lists["list_of_100"]["per_second"], LEAST_LISTS)
        yield check_least(
            "lists of 100 jobs in the summary view a second",
            lists["summary_of_100"]["per_second"],
            LEAST_SUMMARIES,
            "goal",
        )
        yield check_least("single jobs a second", lists["get_one"]["per_second"], LEAST_GETS)
        yield check("p99 seconds of ray job list", lists["ray_job_list"]["p99_seconds"], MOST_RAY_LIST)
    if "calls" in figures:
        more = figures["calls"]["p99_seconds_more"]
        yield check("p99 seconds of a small call beyond the bare one", more, MOST_CALL_MORE)
    if "upload" in figures:
        yield check_least("speed of an upload / direct", figures["upload"]["of_direct"], LEAST_OF_DIRECT)
        yield check("resident MB more while uploads come", figures["upload"]["resident_mb_more"], MOST_UPLOAD_MB)
    if "waiting" in figures:
        waiting = figures["waiting"]
        name = f"cores used by {waiting['jobs']} waiting jobs"
        yield check(name, waiting["cores_of_waiting_jobs"], MOST_WAITING_CORES)
    if "followed" in figures:
        of = figures["followed"]
        yield check(f"of {of['logs']} followed logs, those that lost or repeated a line", of["faulty_logs"], 0)
        slope = followed.slope(of)
        yield check(
            "seconds of lag more in the last fifth of the time", slope["median_lag_seconds"], MOST_SLOPE_SECONDS
        )
        yield check("resident MB more in the last fifth of the time", slope["resident_mb"], MOST_SLOPE_MB)
        yield check("cores more in the last fifth of the time", slope["cores"], MOST_SLOPE_CORES)
    if "abuse" in figures:
        for title, figure in figures["abuse"].items():
            if isinstance(figure, dict):
                yield check(f"longest seconds of /healthz: {title}", figure["longest_seconds"], MOST_HEALTHZ)
        resident = figures["abuse"]["resident_mb_at_most"]
        yield check("resident MB at most, of a gateway that is abused", resident, MOST_RESIDENT_MB)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what one gateway process takes.")
    parser.add_argument("--jobs", type=int, default=10_000, help="Jobs in the store, all of which have ended.")
    parser.add_argument("--waiting", type=int, default=1000, help="Jobs that wait.")
    parser.add_argument("--seconds", type=float, default=20.0, help="How long each figure is measured.")
    parser.add_argument("--part", choices=PARTS, action="append", help="A part to measure; all if none is named.")
    parser.add_argument("--logs", type=int, default=FOLLOWED_LOGS, help="Logs that are followed.")
    asked = parser.parse_args()
    if asked.jobs < 300 or asked.waiting < 1 or asked.logs < 1 or asked.seconds <= 0:
        parser.error("--jobs must be at least 300, --waiting and --logs at least 1, --seconds more than 0")
    # Without bytecode files the gateway would compile itself again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(json.dumps(measure(asked.jobs, asked.waiting, asked.logs, asked.seconds, asked.part or PARTS)))


if __name__ == "__main__":
    main()
