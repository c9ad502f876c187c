"""Train the flight-delay model: XGBoost on two Ray Train workers, tracked in the job's MLflow run.

python -m jobs.train

Reads ``training-set``, trains on its first part, validates on its second, and does not use the third. A second attempt
of the job continues from the last checkpoint of the first. Reports ``run_id`` and ``model_uri``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs import flights_data
from jobs.flights_data import CATEGORIES, FEATURES, BadInput

if TYPE_CHECKING:
    import ray.train
    import xgboost

    from rayplane.nouns.dataset import DatasetVersion
    from rayplane.nouns.job import RunContext
    from rayplane.runtime.models import ModelCard, RequestSchema

WORKERS = 2
REPORT_EVERY, CHECKPOINT_EVERY = 10, 100
"""Boosting rounds between two reports, and between two checkpoints."""

VERIFIED_ROWS, EXAMPLE_ROWS = 5_000, 5
"""Rows on which the card's encoding is compared with the training's, and rows of the model's input example."""


def main() -> None:
    """Train, verify that serving will encode as training did, log the model, report its run and URI."""
    from rayplane.runtime import context, datasets, models, report
    from rayplane.runtime.training import tracking

    ctx = context.current()
    if ctx.run_id is None or ctx.job_uri is None:
        raise BadInput("This job has no MLflow run to train into. Submit it with 'tracked: true'.")
    table = datasets.read("training-set")
    train, valid, _ = flights_data.split(table)
    config = {"params": flights_data.XGB_PARAMS, "rounds": rounds(ctx.parameters), "workers": WORKERS}
    booster = fit(config, storage=f"{ctx.job_uri}/checkpoints", name=str(ctx.job_uid))

    card = model_card(ctx, datasets.version("training-set"), table)
    verify_encoding(card, valid.slice(0, VERIFIED_ROWS))
    with tracking.attach(ctx.run_id) as run:
        import mlflow

        mlflow.log_input(datasets.mlflow_input("training-set"), context="training")
        mlflow.log_params({"rows.train": train.num_rows, "rows.valid": valid.num_rows, "features": len(FEATURES)})
        if ctx.git_commit:
            mlflow.set_tag("mlflow.source.git.commit", ctx.git_commit)
        model_uri = models.log(booster, card, train.slice(0, EXAMPLE_ROWS), run_id=run.info.run_id)

    for dataset in card.datasets:
        report.edge(f"dataset:{dataset.name}@{dataset.version}", f"run:{ctx.run_id}")
    for view in card.feature_views:
        report.edge(f"view:{view.view}@{view.version}", f"run:{ctx.run_id}")
    report.output("run_id", ctx.run_id)
    report.output("model_uri", model_uri)
    print(f"run {ctx.run_id}: {train.num_rows} rows, {booster.num_boosted_rounds()} trees, {model_uri}")


def rounds(parameters: dict[str, str]) -> int:
    """The parameter ``rounds`` (boosting rounds, at least 1), else the default. Raises ``BadInput``."""
    text = parameters.get("rounds", "").strip()
    if not text:
        return flights_data.NUM_BOOST_ROUND
    if not text.isdecimal() or int(text) < 1:
        raise BadInput(f"The parameter rounds={text!r} is no whole number from 1. Write it as 300.")
    return int(text)


def fit(config: dict[str, Any], *, storage: str, name: str) -> xgboost.Booster:
    """Train on the workers and return the last checkpoint's model; a ``name`` that has a checkpoint resumes from it."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.xgboost import XGBoostTrainer

    trainer = XGBoostTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=config["workers"], resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=1),
        ),
    )
    checkpoint = trainer.fit().checkpoint
    if checkpoint is None:
        raise RuntimeError("Training ended without a checkpoint.")  # a bug: the last round always makes one
    return load_checkpoint(checkpoint)


def train_worker(config: dict[str, Any]) -> None:
    """Train one worker on its share of the training rows; report AUC and log loss on all validation rows by round."""
    import ray.train
    import xgboost

    from rayplane.runtime import datasets

    me = ray.train.get_context()
    columns = ["flight_id", "scheduled_at", "month", flights_data.LABEL, *FEATURES]
    train, valid, _ = flights_data.split(datasets.read("training-set", columns=columns))
    # Every n-th row of n workers: each worker gets rows of the whole span of time, and the same ones in every attempt.
    share = train.take(np.arange(me.get_world_rank(), train.num_rows, me.get_world_size()))
    # Every worker has all validation rows: the mean of the workers' figures is then the figure itself, not an estimate.
    # There is no figure of the training rows: computed at every round it would cost a third of the training time.
    parts = {"train": _matrix(share), "valid": _matrix(valid)}

    checkpoint = ray.train.get_checkpoint()
    before = load_checkpoint(checkpoint) if checkpoint else None
    done = before.num_boosted_rounds() if before else 0
    if done >= config["rounds"]:
        return
    xgboost.train(
        {**config["params"], "eval_metric": ["logloss", "auc"], "nthread": 1},
        parts["train"],
        num_boost_round=config["rounds"] - done,
        evals=[(parts["valid"], "valid")],
        xgb_model=before,
        verbose_eval=False,
        callbacks=[_reporter(config["rounds"])],
    )


def _matrix(table: pa.Table) -> xgboost.DMatrix:
    import xgboost

    matrix, labels = flights_data.to_matrix(table), flights_data.labels(table)
    return xgboost.DMatrix(matrix, label=labels, feature_names=FEATURES, nthread=1)


def _reporter(total: int) -> Any:
    """Make an XGBoost callback that reports to Ray Train: metrics by round, and checkpoints from rank 0."""
    import tempfile

    import ray.train
    from ray.train import Checkpoint
    from xgboost.callback import TrainingCallback

    class Reporter(TrainingCallback):
        def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: dict[str, Any]) -> bool:
            done = model.num_boosted_rounds()
            if done % REPORT_EVERY and done != total:
                return False
            metrics = {f"{part}_{name}": v[-1] for part, history in evals_log.items() for name, v in history.items()}
            metrics["step"] = done
            if (done % CHECKPOINT_EVERY and done != total) or ray.train.get_context().get_world_rank() != 0:
                ray.train.report(metrics)
                return False
            with tempfile.TemporaryDirectory() as folder:
                model.save_model(Path(folder) / "model.ubj")
                ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
            return False

    return Reporter()


def load_checkpoint(checkpoint: ray.train.Checkpoint) -> xgboost.Booster:
    """Load the model of a checkpoint that a worker reported."""
    import xgboost

    with checkpoint.as_directory() as folder:
        return xgboost.Booster(model_file=str(Path(folder) / "model.ubj"))


def model_card(ctx: RunContext, version: DatasetVersion, table: pa.Table) -> ModelCard:
    """The model's card: its request, its encoding, and the versions that it was made from."""
    from rayplane.runtime.models import DatasetRef, FeatureColumn, FeatureViewVersion, ModelCard

    inputs = {ref.name: ref.version for ref in version.inputs}
    return ModelCard(
        flavor="xgboost",
        request=request_schema(table),
        features=[
            FeatureColumn(name=name, categories=list(CATEGORIES[name]) if name in CATEGORIES else None)
            for name in FEATURES
        ],
        feature_service=flights_data.FEATURE_SERVICE,
        feature_views=[
            FeatureViewVersion(view=view, dataset=dataset, version=inputs[dataset])
            for view, dataset in flights_data.FEATURE_SOURCES.items()
            if dataset in inputs
        ],
        datasets=[DatasetRef(name=version.name, version=version.version), *version.inputs],
        environment=ctx.environment,
        git_commit=ctx.git_commit,
        output="late_probability",
    )


def request_schema(table: pa.Table) -> RequestSchema:
    """The columns that a client sends for a flight, and the rules that derive its schedule's features from them.

    The rules follow jobs.prepare: local time at the origin (all three are in New York), weekdays from Monday = 1. The
    distance is that of the same route in ``table``, unless the client sends it.
    """
    from rayplane.runtime.models import Derived, RequestColumn, RequestSchema

    zone = "America/New_York"
    routes = table.group_by("route").aggregate([("distance", "max")]).sort_by("route")
    distances = dict(zip(routes["route"].to_pylist(), routes["distance_max"].to_pylist(), strict=True))
    return RequestSchema(
        columns=[
            RequestColumn(
                name="origin",
                type="string",
                description="Airport of departure: EWR, JFK or LGA",
                example="JFK",
            ),
            RequestColumn(name="dest", type="string", description="Airport of destination", example="LAX"),
            RequestColumn(name="carrier", type="string", description="Carrier, two characters", example="DL"),
            RequestColumn(
                name="tailnum",
                type="string",
                required=False,
                default="",
                description="The plane",
                example="N3739P",
            ),
            RequestColumn(
                name="scheduled_at",
                type="instant",
                description="Scheduled departure; features are those known one hour before",
                example="2013-10-15T18:30:00-04:00",
            ),
            RequestColumn(name="distance", type="integer", required=False, description="Miles; known for known routes"),
        ],
        derived=[
            Derived(name="route", rule="join", columns=["origin", "dest"]),
            Derived(name="distance", rule="lookup", columns=["route"], table=distances),
            Derived(name="scheduled_minute", rule="minute_of_day", columns=["scheduled_at"], zone=zone),
            Derived(name="weekday", rule="weekday", columns=["scheduled_at"], zone=zone),
            Derived(name="day_of_year", rule="day_of_year", columns=["scheduled_at"], zone=zone),
            Derived(name="month", rule="month", columns=["scheduled_at"], zone=zone),
        ],
        instant="scheduled_at",
        lead_seconds=3600,
    )


def verify_encoding(card: ModelCard, rows: pa.Table) -> None:
    """Raise ``BadInput`` unless the card's encoding of ``rows`` equals the matrix that the model was trained on."""
    from rayplane.runtime.models import Encoding

    encoding, wanted = Encoding(card.features), flights_data.to_matrix(rows)
    columns = {name: rows[name].to_pylist() for name in encoding.names}
    for encoded in (encoding.matrix(rows), encoding.rows(columns, rows.num_rows)):
        differs = ~((encoded == wanted) | (np.isnan(encoded) & np.isnan(wanted)))
        if differs.any():
            first = encoding.names[int(differs.any(axis=0).argmax())]
            raise BadInput(f"The recorded encoding of '{first}' is not the training's. Mend jobs.train.model_card.")


if __name__ == "__main__":
    flights_data.run(main)
