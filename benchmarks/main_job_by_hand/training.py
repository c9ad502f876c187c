"""Train the model on two Ray Train workers, with the parameters, shares of rows and reports of jobs.train."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.train
import xgboost
from ray.train import Checkpoint, CheckpointConfig, RunConfig, ScalingConfig

from jobs import flights_data, train

FILE = "model.ubj"
CONFIG: dict[str, Any] = {
    "params": flights_data.XGB_PARAMS,
    "rounds": flights_data.NUM_BOOST_ROUND,
    "workers": train.WORKERS,
}


@dataclass(frozen=True)
class Fitted:
    """A trained model, and its metrics at every report."""

    booster: xgboost.Booster
    history: list[dict[str, float]]


def fit(rows: Path, storage: Path) -> Fitted:
    """Train on the training set's file ``rows``."""
    from ray.train.xgboost import XGBoostTrainer

    worker: Any = train_worker  # Ray's annotation does not allow the return value
    trainer = XGBoostTrainer(
        worker,
        train_loop_config={**CONFIG, "rows": str(rows)},
        scaling_config=ScalingConfig(num_workers=train.WORKERS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="flights", storage_path=str(storage), checkpoint_config=CheckpointConfig(num_to_keep=2)
        ),
    )
    result: Any = trainer.fit()
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        booster = xgboost.Booster(model_file=str(Path(folder) / FILE))
    return Fitted(booster, result.return_value or [])


def train_worker(config: dict[str, Any]) -> list[dict[str, float]]:
    """Train one worker on its share of the training rows, with all validation rows; returns its reported metrics."""
    me = ray.train.get_context()
    columns = ["flight_id", "scheduled_at", "month", flights_data.LABEL, *flights_data.FEATURES]
    rows, valid, _ = flights_data.split(pq.read_table(config["rows"], columns=columns))
    share = rows.take(np.arange(me.get_world_rank(), rows.num_rows, me.get_world_size()))
    reporter = Reporter(config["rounds"], leads=me.get_world_rank() == 0)
    xgboost.train(
        {**config["params"], "eval_metric": ["logloss", "auc"], "nthread": 1},
        matrix(share),
        num_boost_round=config["rounds"],
        evals=[(matrix(valid), "valid")],
        verbose_eval=False,
        callbacks=[reporter],
    )
    return reporter.history


def matrix(table: pa.Table) -> xgboost.DMatrix:
    """Features and label as an XGBoost matrix."""
    names = flights_data.FEATURES
    return xgboost.DMatrix(
        flights_data.to_matrix(table), label=flights_data.labels(table), feature_names=names, nthread=1
    )


class Reporter(xgboost.callback.TrainingCallback):
    """Report metrics to Ray Train, and on the leading worker checkpoints."""

    def __init__(self, rounds: int, *, leads: bool) -> None:
        self._rounds, self._leads = rounds, leads
        self.history: list[dict[str, float]] = []

    def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: dict[str, Any]) -> bool:
        """Report if due; returns False, so that training continues."""
        done = epoch + 1
        if done % train.REPORT_EVERY and done != self._rounds:
            return False
        figures = {f"{part}_{name}": v[-1] for part, scores in evals_log.items() for name, v in scores.items()}
        self.history.append({**figures, "step": done})
        if not self._leads or (done % train.CHECKPOINT_EVERY and done != self._rounds):
            ray.train.report(self.history[-1])
            return False
        with tempfile.TemporaryDirectory() as folder:
            model.save_model(Path(folder) / FILE)
            ray.train.report(self.history[-1], checkpoint=Checkpoint.from_directory(folder))
        return False
