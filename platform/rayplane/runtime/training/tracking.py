"""Log to the run that the platform allocated for this job, from the driver; the platform ends it."""

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
    """The run that was allocated for this job; None in a job that is not tracked, or outside the platform."""
    found = os.environ.get(RUN_ID)
    if found or not os.environ.get("RAYPLANE_SUBMISSION_ID"):
        return found or None
    return context.current().run_id


@contextmanager
def attach(run: str | None = None) -> Iterator[Run]:
    """Make the allocated run (or ``run``) MLflow's active one for a block, and leave it running.

    Only for the run of the job under way: one that has ended would be opened again. Raises InvalidInput in an
    untracked job.
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
        # Ends the block alone: the job's outcome decides the run's status, and the platform writes it.
        mlflow.end_run("RUNNING")
        if before is not None:
            os.environ[RUN_ID] = before  # MLflow removes it when a block ends
