"""Log from the driver to the MLflow run that the platform allocated for this job, and later ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.entities import Run

from rayplane.errors import InvalidInput
from rayplane.runtime import context

RUN_ID = "MLFLOW_RUN_ID"


def run_id() -> str | None:
    """Id of the run that the platform allocated for this job; None in an untracked job, or outside the platform."""
    allocated = os.environ.get(RUN_ID)
    if allocated or not os.environ.get("RAYPLANE_SUBMISSION_ID"):
        return allocated or None
    return context.current().run_id


@contextmanager
def attach(run: str | None = None) -> Iterator[Run]:
    """Make the allocated run (or ``run``) MLflow's active run for a block, and leave it running after the block.

    Use it only for the run of a running job: it would reopen a run that has ended. Raises InvalidInput in an untracked
    job.
    """
    chosen = run or run_id()
    if chosen is None:
        raise InvalidInput(
            "This job has no MLflow run.",
            remedy="Submit it tracked: 'tracked: true' in the job's or the step's spec.",
        )
    before = os.environ.get(RUN_ID)
    active = mlflow.start_run(run_id=chosen, log_system_metrics=False)
    try:
        yield active
    finally:
        # Ends the block, not the run: the platform sets the run's final status from the job's outcome.
        mlflow.end_run("RUNNING")
        if before is not None:
            os.environ[RUN_ID] = before  # MLflow removes it when a block ends
