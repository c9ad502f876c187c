"""Measure the starts of jobs, commands, the platform, clusters and services, with warm processes and without.

python -m benchmarks.starts [--rounds N] [--part jobs|commands|up|clusters ...]

Prints JSON. Two local platforms run at once, each in a new home with a cluster that has run a job: `warm` has the
default settings, `plain` has RAYPLANE_WARM_PROCESSES=false, so that its head is a Ray as `ray start` makes it. They
take turns: while one is measured the other is idle. Parts:

- jobs: a job that prints a line, by each way to submit it, until that line and until its end; a job that then imports
  pandas, MLflow, XGBoost and Feast and runs a Ray task; twenty jobs that do nothing, submitted at once.
- commands: the time of commands, compared with kubectl.
- up: `rayplane up` after `rayplane down`.
- clusters: a cluster until it is ready, then a service on it until its first answer.

Every run also measures the memory, threads and forks of the warm interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks.shared.figures import check, say
from benchmarks.starting import clusters, commands, interpreter, jobs
from benchmarks.starting.sides import PLAIN, WARM, side

PARTS = ("jobs", "commands", "up", "clusters")
MOST_FIRST_LINE = 1.0
MOST_FIRST_LINE_BY_SDK = 0.4
MOST_END = 0.4
MOST_BEYOND = 4.0
MOST_UP = 8.0
MOST_HELP = 0.25
MOST_COMMAND = 0.5


def measure(rounds: int, parts: tuple[str, ...]) -> dict[str, Any]:
    """Measure the parts, and return their figures and checks."""
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        sides = {name: stack.enter_context(side(name)) for name in (WARM, PLAIN)}
        figures: dict[str, Any] = {"interpreter": interpreter.interpreter(sides[WARM])}
        if "commands" in parts:  # before the jobs part, since `job list` would list its jobs
            figures["commands"] = commands.commands(sides[WARM], rounds)
        if "jobs" in parts:
            figures["first_line"] = jobs.first_lines(sides, rounds)
            figures["imports_and_task"] = jobs.imports_and_task(sides, rounds)
            figures["at_once"] = jobs.at_once(sides, rounds)
        if "clusters" in parts:
            figures |= clusters.clusters_and_services(sides, rounds)
        if "up" in parts:
            figures["up"] = commands.up(sides[WARM], rounds)
        say("both platforms go down")
    return {
        "figure": "what starts, and how long it takes",
        "rounds": rounds,
        "load": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        **figures,
        "checks": list(checks(figures)),
    }


def checks(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The checks of the parts that were measured."""
    if "first_line" in figures:
        warm, plain = figures["first_line"][WARM], figures["first_line"][PLAIN]
        api, stock = plain["Ray's job API"], plain["stock ray job submit, to the head"]
        ours, sdk = warm["rayplane job submit"], warm["SDK"]
        yield check(
            "first line, rayplane job submit / Ray's job API (plain head)",
            _ratio(ours["first_line"], api["first_line"]),
            MOST_FIRST_LINE,
        )
        yield check(
            "first line, SDK / Ray's job API (plain head)",
            _ratio(sdk["first_line"], api["first_line"]),
            MOST_FIRST_LINE_BY_SDK,
            "goal",
        )
        yield check(
            "end, rayplane job submit / stock ray job submit to the plain head",
            _ratio(ours["end"], stock["end"]),
            MOST_END,
        )
        beyond = figures["imports_and_task"][WARM]["beyond_first_line"]["median_seconds"]
        yield check("seconds of a job's imports and a task, beyond its first line", beyond, MOST_BEYOND)
    for name in commands.COMMANDS if "commands" in figures else ():
        most = MOST_HELP if name.endswith("--help") else MOST_COMMAND
        yield check(f"seconds of {name}", figures["commands"][name]["median_seconds"], most)
    if "up" in figures:
        yield check("seconds of rayplane up in a home that was used", figures["up"]["median_seconds"], MOST_UP)


def _ratio(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    return round(one["median_seconds"] / other["median_seconds"], 3)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure how long things take to start.")
    parser.add_argument("--rounds", type=int, default=5, help="Turns of each; a figure is their median.")
    parser.add_argument("--part", choices=PARTS, action="append", help="A part to measure; all if none is named.")
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error("--rounds must be at least 1")
    # Without bytecode files each of the many processes would compile the platform again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(json.dumps(measure(asked.rounds, tuple(asked.part or PARTS))))


if __name__ == "__main__":
    main()
