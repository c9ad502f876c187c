"""The model in MLflow, with SQLite: its run, its figures on flights that it was not trained on, its version."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import mlflow.xgboost
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.models import infer_signature
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score, roc_curve

from benchmarks.main_job_by_hand.training import CONFIG, Fitted
from jobs import flights_data
from jobs.evaluate import THRESHOLDS
from jobs.register import ALIAS, MODEL
from jobs.train import EXAMPLE_ROWS

BINS = 10
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Logged:
    """A run and its model."""

    run_id: str
    uri: str


def start(folder: Path) -> None:
    """Create MLflow's database, and point this process and those that Ray starts to it."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    mlflow.create_experiment("flights", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("flights")


def log(fitted: Fitted, rows: pa.Table) -> Logged:
    """Log a run with the parameters, the metrics by round and the model."""
    train, valid, _ = flights_data.split(rows)
    example = flights_data.to_matrix(train.slice(0, EXAMPLE_ROWS))
    counts = {"rows.train": train.num_rows, "rows.valid": valid.num_rows, "features": len(flights_data.FEATURES)}
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, int(figures["step"]))
        for figures in fitted.history
        for name, value in figures.items()
        if name != "step"
    ]
    with mlflow.start_run() as run:
        mlflow.log_params({**CONFIG["params"], "rounds": CONFIG["rounds"], "workers": CONFIG["workers"], **counts})
        MlflowClient().log_batch(run.info.run_id, metrics=metrics)
        info = mlflow.xgboost.log_model(
            fitted.booster,
            name="model",
            model_format="ubj",
            signature=infer_signature(example, fitted.booster.inplace_predict(example, validate_features=False)),
            # Listed, not inferred: to infer them, MLflow would load the model in another process.
            pip_requirements=[f"mlflow=={mlflow.__version__}", f"xgboost-cpu=={version('xgboost-cpu')}"],
        )
    return Logged(run.info.run_id, info.model_uri)


def evaluate(logged: Logged, rows: pa.Table, *, gated: bool) -> dict[str, Any]:
    """Log the figures of jobs.evaluate to the run; with ``gated``, assert that they reach its thresholds."""
    train, _, test = flights_data.split(rows)
    labels, baseline = flights_data.labels(test), flights_data.baseline_scores(train, test)
    booster = mlflow.xgboost.load_model(logged.uri)
    scores = booster.inplace_predict(flights_data.to_matrix(test), validate_features=False)
    bins, carriers = reliability(labels, scores), by_carrier(test, labels, scores)
    large = {name: carrier for name, carrier in carriers.items() if carrier["rows"] >= THRESHOLDS["min_slice_rows"]}
    auc, baseline_auc = float(roc_auc_score(labels, scores)), float(roc_auc_score(labels, baseline))
    figures = {
        "rows": test.num_rows,
        "late_rate": float(labels.mean()),
        "auc": auc,
        "baseline_auc": baseline_auc,
        "gain": auc - baseline_auc,
        "log_loss": float(log_loss(labels, scores)),
        "baseline_log_loss": float(log_loss(labels, baseline)),
        "brier": float(brier_score_loss(labels, scores)),
        "ece": sum(part["rows"] * abs(part["predicted"] - part["observed"]) for part in bins) / test.num_rows,
        "worst_slice_auc": min((carrier["auc"] for carrier in large.values()), default=None),
    }
    evidence = {"figures": figures, "reliability": bins, "carriers": carriers, "roc": roc(labels, scores)}
    client = MlflowClient()
    client.log_dict(logged.run_id, evidence, "evaluation/figures.json")
    metrics = [Metric(f"test_{name}", value, 0, 0) for name, value in figures.items() if value is not None]
    client.log_batch(logged.run_id, metrics=metrics)
    if gated:
        require(figures)
    return figures


def register(logged: Logged) -> None:
    """Register the model as a new version, and make that the champion."""
    registered = mlflow.register_model(logged.uri, MODEL)
    MlflowClient().set_registered_model_alias(MODEL, ALIAS, registered.version)


def reliability(labels: Floats, scores: Floats) -> list[dict[str, float]]:
    """Sort rows by score and cut them into equal parts: the mean prediction and the observed rate of each."""
    return [
        {"rows": len(part), "predicted": float(scores[part].mean()), "observed": float(labels[part].mean())}
        for part in np.array_split(np.argsort(scores, kind="stable"), BINS)
    ]


def by_carrier(rows: pa.Table, labels: Floats, scores: Floats) -> dict[str, dict[str, float]]:
    """Rows and AUC of each carrier with both late and punctual flights."""
    carriers = np.array(rows["carrier"].to_pylist())
    figures = {}
    for carrier in np.unique(carriers):
        inside = carriers == carrier
        if 0 < labels[inside].sum() < inside.sum():
            auc = float(roc_auc_score(labels[inside], scores[inside]))
            figures[str(carrier)] = {"rows": int(inside.sum()), "auc": auc}
    return figures


def roc(labels: Floats, scores: Floats) -> list[list[float]]:
    """Points of the ROC curve."""
    misses, hits, _ = roc_curve(labels, scores)
    indices = np.linspace(0, len(misses) - 1, 200).astype(int)
    return [[float(misses[index]), float(hits[index])] for index in indices]


def require(figures: dict[str, Any]) -> None:
    """Assert that the figures pass the gate of jobs.evaluate."""
    assert figures["auc"] >= THRESHOLDS["min_auc"], figures
    assert figures["gain"] >= THRESHOLDS["min_gain"], figures
    assert figures["ece"] <= THRESHOLDS["max_ece"], figures
    assert figures["worst_slice_auc"] >= THRESHOLDS["min_slice_auc"], figures
