"""Compare the main job by the platform with a hand-written script of the same parts: wall time to the first answer.

python -m benchmarks.main_job [--rounds N] [--days N]

Prints JSON. Rounds in turns: the platform, then the script (benchmarks/main_job_by_hand) in a process of its own.

- The platform is running: `rayplane up` in a new home, the team's documents applied, the cluster ready, and then
  SETTLE_SECONDS, in which the processes that `up` started finish their imports. The clock runs from `pipeline run`
  until the run has ended and the service has answered with the version that the run registered. The home is new in
  every round, so nothing is cached, and the service is deployed during the run: until then it waits for a version with
  its alias.
- The script's clock runs from the start of its process and includes its imports, MLflow's new database and its own Ray
  (stage `start`): a running platform has done these before, a script never has.

Stages of the platform are the run's steps, some of which run at once, so they add up to more than the job; `observe` is
from the run's start to its first step, `deploy` from the end of `register` until the service is observed as ready. A
step's seconds include the job's process, imports, events and bookkeeping; the script has its part of these in `start`.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.shared.figures import check, say
from rayplane import processes
from rayplane.client import quickstart
from rayplane.client.quickstart import CLUSTER, PIPELINE, SERVICE, TEAM
from rayplane.client.sdk import Client, why
from rayplane.nouns.base import Object
from rayplane.nouns.pipeline import RunStatus, StepRun
from tests.support.local_platform import local_platform

ROOT = Path(__file__).parents[1]
SETTLE_SECONDS = 20.0
MOST_SECONDS = 1800.0
"""Seconds to wait for a run, a service or the script."""

MOST_RATIO = 1.35
MOST_BEYOND: Mapping[str, float] = {
    **dict.fromkeys(("evaluate", "register", "plane-features", "weather-features"), 4.0),
    **{f"ingest-{table}": 4.0 for table in ("flights", "weather", "planes", "airports", "airlines")},
    "train": 8.0,
}
"""Step -> seconds that it may take beyond the same work in the script."""
SAME_AUC = 1e-4


@dataclass(frozen=True)
class Turn:
    """One execution of the main job, by the platform or by the script."""

    load: float
    """Load average of the machine over a minute, when its clock began."""
    seconds: float
    stages: dict[str, float]
    rows: dict[str, int]
    """Dataset -> rows."""
    auc: float
    answer: Any
    """The service's first answer."""


def by_platform(days: int | None) -> Turn:
    """Run the job by a platform that is started before and stopped after it."""
    with (
        tempfile.TemporaryDirectory(prefix="rp-bench-") as folder,
        local_platform(Path(folder) / "home") as platform,
        platform.client as api,
    ):
        apply(api)
        api.clusters.wait(TEAM, CLUSTER)
        time.sleep(SETTLE_SECONDS)
        load, began = os.getloadavg()[0], time.monotonic()
        parameters = {} if days is None else {"days": str(days), **quickstart.SLICE}
        name = api.pipelines.run(TEAM, PIPELINE, parameters, force=True).metadata.name
        status = ended(api, name)
        steps = {step.name: step for step in status.steps}
        version = str(recorded(steps["register"], "model")["version"])
        service = until(lambda: serving(api, version), f"service '{SERVICE}' serves version {version}")
        ready_at, asked_at = time.time(), time.monotonic()
        answer = quickstart.ask(service.status["url"], quickstart.read_requests(ROOT)[0])
        answered_at = time.monotonic()
        return Turn(
            load=round(load, 2),
            seconds=round(answered_at - began, 3),
            stages={**step_seconds(status, ready_at), "first-answer": round(answered_at - asked_at, 3)},
            rows=dict(rows(api, status.steps)),
            auc=float(recorded(steps["evaluate"], "gate")["auc"]),
            answer=answer,
        )


def by_hand(days: int | None) -> Turn:
    """Run the job by the script, in a process and a folder of its own."""
    mark = f"main-job-{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="rp-bench-") as folder:
        command = [sys.executable, "-m", "benchmarks.main_job_by_hand", folder]
        load = os.getloadavg()[0]
        try:
            done = subprocess.run(
                command if days is None else [*command, "--days", str(days)],
                stdout=subprocess.PIPE,
                text=True,
                timeout=MOST_SECONDS,
                cwd=ROOT,
                env={**os.environ, processes.MARK: mark},
                start_new_session=True,
                check=True,
            )
        finally:
            processes.stop_marked(mark)  # stops the script's Ray, which is left over if it was interrupted
    report = json.loads(done.stdout)
    stages = {stage["name"]: stage["seconds"] for stage in report.pop("stages")}
    return Turn(load=round(load, 2), stages=stages, **report)


def apply(api: Client) -> None:
    """Apply the team's documents, with this repository as the package."""
    documents = quickstart.read_documents(ROOT / quickstart.DOCUMENTS)
    for document in documents:
        if "package" in document.spec:
            document.spec["package"] = str(ROOT)
    api.apply_documents(documents)


def ended(api: Client, name: str) -> RunStatus:
    """Wait until a run has ended, and return its status; raises SystemExit unless it succeeded."""

    def over() -> Object | None:
        run = api.pipelines.get_run(TEAM, PIPELINE, name)
        return run if run.status.get("phase") in ("Succeeded", "Failed", "Stopped") else None

    run = until(over, f"run '{name}' ends")
    if run.status["phase"] != "Succeeded":
        raise SystemExit(f"run '{name}' {run.status['phase']}: {why(run)}")
    return RunStatus.model_validate(run.status)


def serving(api: Client, version: str) -> Object | None:
    """The service, if it is ready with this version."""
    service = api.services.get(TEAM, SERVICE)
    serves = str((service.status.get("revision") or {}).get("version"))
    return service if serves == version and service.status.get("phase") == "Ready" else None


def until(look: Callable[[], Object | None], what: str) -> Object:
    """Call ``look`` until it returns an object, and return that; raises SystemExit after MOST_SECONDS."""
    deadline = time.monotonic() + MOST_SECONDS
    while (value := look()) is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"not so after {MOST_SECONDS:.0f} s: {what}")
        time.sleep(0.2)
    return value


def step_seconds(status: RunStatus, ready_at: float) -> dict[str, float]:
    """Seconds of each step of a run that has succeeded, and of the stages before and after the steps."""
    steps = {step.name: step for step in status.steps}
    starts = [step.started_at.timestamp() for step in status.steps if step.started_at]
    registered_at, started_at = steps["register"].ended_at, status.started_at
    assert registered_at is not None
    assert started_at is not None
    stages = {
        "observe": min(starts) - started_at.timestamp(),
        **{name: step.seconds for name, step in steps.items()},
        "deploy": ready_at - registered_at.timestamp(),
    }
    return {name: round(seconds, 3) for name, seconds in stages.items()}


def recorded(step: StepRun, name: str) -> Any:
    """A value that a step recorded."""
    return next(output.value for output in step.outputs if output.kind == "value" and output.name == name)


def rows(api: Client, steps: Sequence[StepRun]) -> Iterator[tuple[str, int]]:
    """(name, rows) of each dataset that the steps published."""
    for step in steps:
        for output in step.outputs:
            if output.kind == "dataset":
                yield output.name, api.datasets.version(TEAM, output.name, str(output.value)).rows


def median_of(turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians of the turns' seconds, as a whole and by stage."""
    return {
        "median_seconds": round(statistics.median(turn.seconds for turn in turns), 3),
        "stages": {name: round(statistics.median(turn.stages[name] for turn in turns), 3) for name in turns[0].stages},
    }


def checks(
    platform: Mapping[str, Any], script: Mapping[str, Any], pairs: Sequence[tuple[Turn, Turn]]
) -> Iterator[dict[str, Any]]:
    """The checks of ratio, stages, rows and AUC."""
    ratio = round(platform["median_seconds"] / script["median_seconds"], 3)
    yield check(f"platform / script, median of {len(pairs)}", ratio, MOST_RATIO)
    for step, most in MOST_BEYOND.items():
        beyond = round(platform["stages"][step] - script["stages"][step], 3)
        yield check(f"{step}: seconds beyond the same work in the script", beyond, most)
    unlike = sorted({name for one, other in pairs for name, _ in one.rows.items() ^ other.rows.items()})
    yield {"name": "datasets with other rows", "value": unlike, "wanted": [], "ok": not unlike}
    apart = max(abs(one.auc - other.auc) for one, other in pairs)
    yield check("difference of the AUCs", apart, SAME_AUC)


def measure(rounds: int, days: int | None) -> dict[str, Any]:
    """Run both ways in turns, and return the figures and checks."""
    load = os.getloadavg()[0]
    pairs: list[tuple[Turn, Turn]] = []
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}: the platform")
        one = by_platform(days)
        say(f"round {number} of {rounds}: {one.seconds:.1f} s; now the script")
        other = by_hand(days)
        say(f"round {number} of {rounds}: {other.seconds:.1f} s by the script")
        pairs.append((one, other))
    platform, script = median_of([one for one, _ in pairs]), median_of([other for _, other in pairs])
    return {
        "figure": "the main job, from its start to the service's first answer",
        "days": days,
        "load": round(load, 2),
        "rounds": [{"platform": asdict(one), "script": asdict(other)} for one, other in pairs],
        "platform": platform,
        "script": script,
        "ratio": round(platform["median_seconds"] / script["median_seconds"], 3),
        "checks": list(checks(platform, script, pairs)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the main job by the platform and by hand.")
    parser.add_argument("--rounds", type=int, default=3, help="Turns of each; the figure is their median.")
    parser.add_argument("--days", type=int, help="The first so many days of January instead of the year: a trial.")
    asked = parser.parse_args()
    if asked.rounds < 1 or not 1 <= (asked.days or 1) <= 31:
        parser.error("--rounds must be at least 1, --days from 1 to 31")
    print(json.dumps(measure(asked.rounds, asked.days)))


if __name__ == "__main__":
    main()
