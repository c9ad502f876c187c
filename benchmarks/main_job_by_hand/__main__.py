"""Run the main job by hand in a folder, print JSON: seconds of each stage, rows of each dataset, AUC, first answer.

python -m benchmarks.main_job_by_hand FOLDER [--days N]

It starts its own Ray, which ends with it, and removes the folder of its temporary files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Ray Train takes one report from a worker at every poll, and polls every two seconds by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.05",
}
MATERIALIZE_AT = "2013-10-15T21:30:00Z"
"""Instant of materialization as in jobs/flights.yaml; a slice is materialized as of its newest fact."""
REQUESTS = Path(__file__).parents[2] / "jobs" / "flights-requests.json"


class Stages:
    """Wall time of each stage, in order."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []

    @contextmanager
    def __call__(self, name: str, began: float | None = None) -> Iterator[None]:
        """Time a block, from ``began`` if set, else from its start."""
        began = time.monotonic() if began is None else began
        yield
        self.done.append({"name": name, "seconds": round(time.monotonic() - began, 3)})
        print(f"by hand: {name}: {self.done[-1]['seconds']} s", file=sys.stderr, flush=True)


def job(folder: Path, temporary: Path, days: int | None) -> dict[str, Any]:
    """Run the whole job, from the start of Ray to the service's first answer."""
    stage = Stages()
    with stage("start", began=BEGAN):
        # Imported here, so that the imports' time is part of this stage.
        import ray

        from benchmarks.main_job_by_hand import models, online, tables, training

        models.start(folder)  # before Ray, whose processes inherit MLflow's address
        # Two workers of one CPU each train, even on a smaller machine.
        ray.init(
            "local",
            num_cpus=max(2, os.cpu_count() or 2),
            dashboard_port=online.free_port(),
            _temp_dir=str(temporary / "ray"),
        )
    try:
        made = tables.Tables(folder)
        for table in tables.RAW:
            with stage(f"ingest-{table}"):
                made.ingest(table, days)
        with stage("prepare"):
            made.prepare()
        with stage("weather-features"):
            made.weather_features()
        with stage("delay-features"):
            made.delay_features()
        with stage("plane-features"):
            made.plane_features()
        with stage("training-set"):
            store = online.open_store(folder)
            store.apply(made.definitions())
            made.training_set()
        with stage("train"):
            fitted = training.fit(made.path("training-set"), folder / "checkpoints")
            logged = models.log(fitted, made.get("training-set"))
        with stage("evaluate"):
            figures = models.evaluate(logged, made.get("training-set"), gated=days is None)
        with stage("register"):
            models.register(logged)
        with stage("materialize"):
            online.materialize(store, MATERIALIZE_AT if days is None else made.newest_fact())
        with stage("deploy"):
            url = online.deploy(folder)
        with stage("first-answer"):
            answer = online.ask(url, json.loads(REQUESTS.read_text())[0])
        seconds = round(time.monotonic() - BEGAN, 3)
    finally:
        ray.shutdown()
    return {"stages": stage.done, "rows": made.rows, "auc": figures["auc"], "answer": answer, "seconds": seconds}


def main() -> None:
    """Run the job and print its report."""
    parser = argparse.ArgumentParser(description="Do the main job by hand.")
    parser.add_argument("folder", type=Path, help="An empty folder for all that the job makes.")
    parser.add_argument("--days", type=int, help="The first so many days of January instead of the year.")
    asked = parser.parse_args()
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="byhand-", ignore_cleanup_errors=True) as temporary:
        os.environ.update(SETTINGS, TMPDIR=temporary)
        tempfile.tempdir = None
        with redirect_stdout(sys.stderr):
            report = job(asked.folder.resolve(), Path(temporary), asked.days)
        tempfile.tempdir = None
    print(json.dumps(report))


if __name__ == "__main__":
    main()
