"""Measure the imports of each kind of process: modules, large libraries, seconds.

python -m benchmarks.imports [--rounds N] [--markdown]

Prints JSON, or a table. Each statement runs alone in a new interpreter, so that its seconds include all its imports,
but not the interpreter's own start. A first round, which is not counted, fills caches and compiles bytecode.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.models import Model

from benchmarks.shared.figures import say
from benchmarks.starting.programs import tiny_model
from rayplane import plugins
from rayplane.runtime.models.card import METADATA_KEY

LIBRARIES = ("ray", "mlflow", "feast", "xgboost", "pandas", "pyarrow", "sqlalchemy", "fastapi", "httpx", "rich")
"""Large libraries that are reported if a process has imported them."""

# os._exit, since at a normal exit DuckDB (2.0) prints pages of leaked objects.
CHILD = """
import json, os, sys, time
wall, cpu = time.perf_counter(), time.process_time()
{statement}
figures = {{
    "seconds": time.perf_counter() - wall,
    "cpu_seconds": time.process_time() - cpu,
    "modules": len(sys.modules),
    "libraries": [name for name in {libraries!r} if name in sys.modules],
}}
print(json.dumps(figures), flush=True)
os._exit(0)
"""


@dataclass(frozen=True)
class Process:
    """A kind of process, and the statement that makes its imports. ``{folder}`` and ``{model}`` stand for paths."""

    name: str
    statement: str
    imports: str = ""
    """Short form of a long statement, for the table."""


PROCESSES = (
    Process("command line", "import rayplane.client.cli.main"),
    Process("SDK", "import rayplane.client.sdk"),
    Process("gateway", "import rayplane.gateway.__main__"),
    Process("job that uses the runtime", "import rayplane.runtime"),
    Process("worker of Ray", "import ray._private.workers.default_worker"),
    Process("controller of Ray Train, with its callback", "import rayplane.runtime.training.callback"),
    Process("replica, before its model", "import rayplane.runtime.serving.app"),
    Process(
        "replica, with an XGBoost model",
        "import rayplane.runtime.serving.app; from rayplane.runtime import features, models; models.load({model!r})",
        "import rayplane.runtime.serving.app; models.load(...)",
    ),
    Process("Feast, as it comes", "import feast"),
    Process(
        "Feast, without its type checks",
        "from rayplane.runtime import feast_import; feast_import.without_type_checks(); import feast",
        "feast_import.without_type_checks(); import feast",
    ),
    Process(
        "warm interpreter",
        "from rayplane.runtime.warm import libraries; libraries.load({folder!r})",
        "rayplane.runtime.warm.libraries.load(...)",
    ),
)


def save_model(folder: Path) -> Path:
    """Write a small XGBoost model with its card as an MLflow model."""
    booster, card, _ = tiny_model.train()
    flavor = plugins.load("flavors", card.flavor)()
    model = Model(metadata={METADATA_KEY: card.model_dump(mode="json")})
    flavor.save_model(str(folder), model, model=booster, pip_requirements=[])
    return folder


def run(process: Process, folder: Path, model: Path) -> dict[str, Any]:
    """Run a process' statement in a new interpreter, in a folder without modules; returns its figures."""
    load = os.getloadavg()[0]
    statement = process.statement.format(folder=str(folder), model=str(model))
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(statement=statement, libraries=LIBRARIES)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"'{statement}' can't be run:\n{done.stderr}")
    return {"load": round(load, 2), **json.loads(done.stdout.splitlines()[-1])}


def measure(rounds: int) -> dict[str, Any]:
    """Measure all processes in turns."""
    load = os.getloadavg()[0]
    turns: dict[str, list[dict[str, Any]]] = {process.name: [] for process in PROCESSES}
    with tempfile.TemporaryDirectory(prefix="rp-bench-") as folder:
        empty = Path(folder, "empty")
        empty.mkdir()
        model = save_model(Path(folder, "model"))
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "a round that is not counted")
            for process in PROCESSES:
                turn = run(process, empty, model)
                if number:
                    turns[process.name].append(turn)
    return {
        "figure": "what each process imports",
        "rounds": rounds,
        "load": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "processes": [figure(process, turns[process.name]) for process in PROCESSES],
    }


def figure(process: Process, turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of a process, and the modules and libraries that it had imported in the end."""
    return {
        "process": process.name,
        "imports": process.imports or process.statement,
        "median_seconds": round(statistics.median(turn["seconds"] for turn in turns), 3),
        "median_cpu_seconds": round(statistics.median(turn["cpu_seconds"] for turn in turns), 3),
        "seconds": [round(turn["seconds"], 3) for turn in turns],
        "load": [turn["load"] for turn in turns],
        "modules": turns[-1]["modules"],
        "libraries": turns[-1]["libraries"],
    }


def table(processes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield "| process | imports | of the large libraries | modules | seconds | of CPU |"
    yield "|---|---|---|---|---|---|"
    for of in processes:
        libraries = ", ".join(of["libraries"]) or "none"
        seconds = f"{of['median_seconds']:.2f} | {of['median_cpu_seconds']:.2f}"
        yield f"| {of['process']} | `{of['imports']}` | {libraries} | {of['modules']} | {seconds} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what each process imports.")
    parser.add_argument("--rounds", type=int, default=3, help="Turns of each; a figure is their median.")
    parser.add_argument("--markdown", action="store_true", help="Print a table instead of JSON.")
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error("--rounds must be at least 1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    figures = measure(asked.rounds)
    print("\n".join(table(figures["processes"])) if asked.markdown else json.dumps(figures))


if __name__ == "__main__":
    main()
