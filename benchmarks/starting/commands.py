"""Time commands of the command line, compared with kubectl's shortest, and `rayplane up` in a used home."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.shared.figures import Timed, say, summary, timed
from benchmarks.starting.sides import CLUSTER, TEAM, Side
from tests.support.local_platform import COMMAND

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests" / "kubernetes" / "tools" / "build"
COMMANDS = {
    "rayplane --help": ("--help",),
    "rayplane job list": ("job", "list", "--team", TEAM),
    "rayplane status": ("status",),
    f"rayplane why {TEAM}/{CLUSTER}": ("why", f"{TEAM}/{CLUSTER}"),
}
KUBECTL = "kubectl version --client"


def commands(side: Side, rounds: int) -> dict[str, Any]:
    """Command -> its seconds, None for a missing kubectl; also the number of jobs that `job list` lists."""
    wanted = {name: (COMMAND, *arguments) for name, arguments in COMMANDS.items()}
    kubectl = kubectl_path()
    if kubectl is None:
        say("there is no kubectl on PATH, nor one of 'make kubernetes-tools': it is not measured")
    else:
        wanted[KUBECTL] = (kubectl, "version", "--client")
    turns: dict[str, list[Timed]] = {name: [] for name in wanted}
    for number in range(1, rounds + 1):
        for name, command in wanted.items():
            turn = timed(partial(_run, side, command))
            turns[name].append(turn)
            say(f"round {number}, {name}: {turn.seconds:.2f} s")
    figures: dict[str, Any] = {name: summary(its) for name, its in turns.items()}
    return {**figures, KUBECTL: figures.get(KUBECTL), "jobs": len(side.api.jobs.list(TEAM))}


def up(side: Side, rounds: int) -> dict[str, Any]:
    """Time `rayplane up` after `rayplane down`; the cluster is ready again before the next turn."""
    turns = []
    for number in range(1, rounds + 1):
        side.platform.rayplane("down")
        turn = timed(lambda: side.platform.rayplane("up"))
        turns.append(turn)
        say(f"round {number}, rayplane up: {turn.seconds:.1f} s")
        side.api.clusters.wait(TEAM, CLUSTER)
        side.run("python -c pass")
    return summary(turns)


def kubectl_path() -> str | None:
    """The kubectl on PATH, else the test bed's."""
    if path := shutil.which("kubectl"):
        return path
    listed = subprocess.run([TOOLS, "--list"], capture_output=True, text=True, check=False).stdout
    programs = dict(line.split("\t", 1) for line in listed.splitlines() if "\t" in line)
    return programs.get("kubectl")


def _run(side: Side, command: Sequence[str]) -> None:
    done = subprocess.run(command, env=side.platform.env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}\n{done.stderr}")
