"""Time jobs on both platforms: one that prints a line, by each way to submit it; one with imports; twenty at once."""

from __future__ import annotations

import shlex
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.shared.figures import Timed, say, summary, timed
from benchmarks.starting import ways
from benchmarks.starting.sides import CLUSTER, PLAIN, TEAM, WARM, Side
from benchmarks.starting.ways import Turn

PROGRAMS = Path(__file__).with_name("programs")
REST = 1.0
"""Seconds between two turns, in which the processes of the last job end."""
AT_ONCE = 20
WAYS: Mapping[str, Mapping[str, Callable[[Side], Turn]]] = {WARM: ways.WARM_WAYS, PLAIN: ways.PLAIN_WAYS}


def first_lines(sides: Mapping[str, Side], rounds: int) -> dict[str, Any]:
    """Platform -> way -> seconds to the first line and to the end of a job that prints a line."""
    turns: dict[str, dict[str, list[Turn]]] = {name: defaultdict(list) for name in sides}
    for number in range(1, rounds + 1):
        for way in ways.WARM_WAYS:
            for name, side in sides.items():
                if way in WAYS[name]:
                    turn = WAYS[name][way](side)
                    turns[name][way].append(turn)
                    say(f"round {number}, {name}, {way}: {turn.first:.2f} s to the first line, {turn.end:.2f} s in all")
                    time.sleep(REST)
    return {name: {way: _both(its) for way, its in by_way.items()} for name, by_way in turns.items()}


def imports_and_task(sides: Mapping[str, Side], rounds: int) -> dict[str, Any]:
    """Platform -> seconds beyond the first line of a job that imports libraries and runs a task of Ray."""
    entrypoint = ("python", "imports_and_task.py")
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            turn = ways.by_rayplane(side, entrypoint, PROGRAMS)
            turns[name].append(turn)
            say(f"round {number}, {name}: {turn.end - turn.first:.2f} s of imports and a task")
            time.sleep(REST)
    return {
        name: {"beyond_first_line": summary([Timed(turn.end - turn.first, turn.load) for turn in its]), **_both(its)}
        for name, its in turns.items()
    }


def at_once(sides: Mapping[str, Side], rounds: int) -> dict[str, Any]:
    """Platform -> seconds from the submission of the first of twenty jobs until all have ended, by the SDK."""
    turns: dict[str, list[Timed]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            turn = timed(partial(_run_many, side))
            turns[name].append(turn)
            say(f"round {number}, {name}: {AT_ONCE} jobs at once end after {turn.seconds:.1f} s")
            time.sleep(REST)
    return {"jobs": AT_ONCE, **{name: summary(its) for name, its in turns.items()}}


def _run_many(side: Side) -> None:
    spec = {"entrypoint": shlex.join(["python", "-c", "pass"]), "cluster": CLUSTER}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        names = list(threads.map(lambda _: side.api.jobs.submit(TEAM, spec).metadata.name, range(AT_ONCE)))
    for name in names:
        side.api.jobs.wait(TEAM, name, phases={"Succeeded"})


def _both(turns: Sequence[Turn]) -> dict[str, Any]:
    return {
        "first_line": summary([Timed(turn.first, turn.load) for turn in turns]),
        "end": summary([Timed(turn.end, turn.load) for turn in turns]),
    }
