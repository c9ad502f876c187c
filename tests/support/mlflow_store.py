"""A real MLflow store for tests: SQLite and a folder, created once per module, since creating its tables takes
seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient

VARIABLE = "MLFLOW_TRACKING_URI"


@contextmanager
def store(folder: Path) -> Iterator[str]:
    """Use a store below ``folder`` in this process and its children; yield the id of an experiment."""
    uri = f"sqlite:///{folder}/mlflow.db"
    named = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = uri
    mlflow.set_tracking_uri(uri)
    try:
        yield str(MlflowClient().create_experiment("tests", artifact_location=f"file://{folder}/artifacts"))
    finally:
        # None resets it: setting the earlier get_tracking_uri(), maybe a default, would override the variable.
        mlflow.set_tracking_uri(named)
        if named is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = named


def uri() -> str:
    """The tracking URI of the store in use."""
    return os.environ[VARIABLE]
