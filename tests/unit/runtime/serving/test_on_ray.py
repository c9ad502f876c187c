"""On a real Ray: a stock Train script is tracked; the flights' jobs train, judge and register; Serve serves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient

from jobs import evaluate, flights_data, register, train
from jobs.flights_data import BadInput
from rayplane.errors import InvalidSpec
from rayplane.processes import free_port
from rayplane.runtime import context, datasets, models, report
from tests.unit.runtime.serving.conftest import Cluster

pytestmark = pytest.mark.slow

LENIENT = {
    "min_auc": "0.6",
    "min_gain": "0.01",
    "max_ece": "0.5",
    "min_slice_auc": "0",
    "min_slice_rows": "20",
}


def stock_script(folder: str) -> None:
    """Use Ray Train as its documentation shows it; in the first attempt a worker dies after its checkpoint."""
    import ray.train
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    def loop(config: dict[str, Any]) -> None:
        import os
        import tempfile

        from ray.train import Checkpoint

        start = 0
        if checkpoint := ray.train.get_checkpoint():
            with checkpoint.as_directory() as path, open(f"{path}/epoch") as file:
                start = int(file.read()) + 1
        for epoch in range(start, config["epochs"]):
            with tempfile.TemporaryDirectory() as path:
                with open(f"{path}/epoch", "w") as file:
                    file.write(str(epoch))
                rank = ray.train.get_context().get_world_rank()
                saved = Checkpoint.from_directory(path) if epoch == 1 and rank == 0 else None
                ray.train.report({"loss": 10.0 - epoch, "epoch": epoch}, checkpoint=saved)
            if epoch == 3 and start == 0:
                os._exit(1)

    DataParallelTrainer(
        loop,
        train_loop_config={"epochs": 6, "lr": 0.1},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=folder, name="stock", failure_config=FailureConfig(max_failures=1)),
    ).fit()


def new_run(cluster: Cluster) -> str:
    run_id = str(MlflowClient().create_run(cluster.experiment).info.run_id)
    cluster.context = cluster.context.model_copy(update={"run_id": run_id})
    return run_id


def test_a_stock_train_script_is_tracked_and_logs_no_step_twice_if_a_worker_dies(
    cluster: Cluster, tmp_path: Any
) -> None:
    run_id = new_run(cluster)
    stock_script(str(tmp_path))
    run = MlflowClient().get_run(run_id)
    assert [(m.step, m.value) for m in MlflowClient().get_metric_history(run_id, "loss")] == [
        (step, 10.0 - step) for step in range(6)
    ]
    assert (run.data.params["lr"], run.data.params["scaling.num_workers"]) == ("0.1", "2")
    assert run.data.tags["ray.train.world_size"] == "2"
    assert run.info.status == "RUNNING"


def flights_table(rows: int = 6000) -> pa.Table:
    """A training set with all columns, in which delays depend on the wind and the carrier."""
    random = np.random.default_rng(4)
    scheduled = [datetime(2013, 1, 1, 10, tzinfo=UTC) + timedelta(minutes=5 * row) for row in range(rows)]
    columns: dict[str, Any] = {name: random.random(rows).astype(np.float32) for name in flights_data.FEATURES}
    for name, known in flights_data.CATEGORIES.items():
        columns[name] = random.choice([*known, "other"], rows).tolist()
    columns["scheduled_minute"] = random.integers(0, 1440, rows).astype(np.int32)
    columns["distance"] = random.integers(100, 3000, rows).astype(np.int32)
    windy = columns["wind_speed"] + np.isin(columns["carrier"], ["EV", "F9", "MQ"]) * 0.3
    return pa.table(
        {
            **columns,
            "flight_id": [f"f{row:06}" for row in range(rows)],
            "scheduled_at": pa.array(scheduled, flights_data.INSTANT),
            "month": pa.array([at.month for at in scheduled], pa.int32()),
            "route": [f"JFK-{row % 9:03}" for row in range(rows)],
            flights_data.LABEL: pa.array((windy + random.random(rows) * 0.3 > 0.9).astype(np.int32)),
        }
    )


@pytest.fixture(scope="module")
def trained(cluster: Cluster) -> str:
    """Run the flights' jobs in the order of their pipeline; returns the registered model's URI."""
    run_id = new_run(cluster)
    with context.override(cluster.context):
        version = datasets.publish("training-set", flights_table())
    changes = {
        "inputs": {"training-set": version.version},
        "parameters": {"rounds": "40", **LENIENT},
        "git_commit": "c0ffee",
    }
    cluster.context = cluster.context.model_copy(update=changes)
    with context.override(cluster.context):
        train.main()
        assert report.flush(10)
        outputs = cluster.values()
    values: dict[str, Any] = {"train.run_id": outputs["run_id"], "train.model_uri": outputs["model_uri"]}
    with context.override(cluster.context.model_copy(update={"values": values})):
        evaluate.main()
        assert report.flush(10)
        values["evaluate.gate"] = cluster.values()["gate"]
    with context.override(cluster.context.model_copy(update={"values": values})):
        register.main()
        assert report.flush(10)
    assert outputs["run_id"] == run_id
    model: Any = cluster.values()["model"]
    return f"models:/{model['name']}/{model['version']}"


def test_the_training_job_logs_one_complete_run(cluster: Cluster, trained: str) -> None:
    run = MlflowClient().get_run(str(cluster.values()["run_id"]))
    steps = [m.step for m in MlflowClient().get_metric_history(run.info.run_id, "valid_auc")]
    assert steps == [10, 20, 30, 40]
    assert run.data.params["rounds"] == "40"
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == (
        "training-set",
        cluster.context.inputs["training-set"],
    )
    assert run.data.metrics["test_auc"] > 0.6
    assert models.load(trained).card.datasets[0].version == cluster.context.inputs["training-set"]


def test_another_attempt_resumes_the_run_and_logs_no_step_twice(cluster: Cluster, trained: str) -> None:
    run_id = str(cluster.values()["run_id"])
    before = len(MlflowClient().get_metric_history(run_id, "valid_auc"))
    with context.override(cluster.context.model_copy(update={"attempt": 2, "submission_id": "uid1-2"})):
        train.main()
    assert len(MlflowClient().get_metric_history(run_id, "valid_auc")) == before
    assert cluster.values()["run_id"] == run_id


def test_the_gate_logs_its_evidence_to_the_run(cluster: Cluster, trained: str) -> None:
    gate: Any = cluster.values()["gate"]
    run_id = str(cluster.values()["run_id"])
    files = {f.path for f in MlflowClient().list_artifacts(run_id, "evaluation")}
    assert files == {"evaluation/figures.json", "evaluation/report.html"}
    assert gate["passed"] is True
    assert gate["auc"] > gate["baseline_auc"]
    (judged,) = [e["data"] for e in cluster.gateway.events() if e["type"] == "gate.judged"]
    assert (judged["run_id"], judged["passed"]) == (run_id, True)


def test_a_model_that_did_not_pass_is_not_registered(cluster: Cluster, trained: str) -> None:
    gate: Any = cluster.values()["gate"]
    values = {"train.run_id": gate["run_id"], "train.model_uri": gate["model_uri"]}
    with pytest.raises(BadInput, match="did not pass its gate"):
        register.passed({**values, "evaluate.gate": {**gate, "passed": False}})
    with pytest.raises(BadInput, match="Run the step 'evaluate' again"):
        register.passed({**values, "evaluate.gate": {**gate, "model_uri": "models:/m-other"}})
    with pytest.raises(BadInput, match="knows of no judged model"):
        register.passed(values)


@pytest.fixture(scope="module")
def url(cluster: Cluster, trained: str) -> str:
    """Serve the registered model with Ray Serve, without a Feast project; returns its URL."""
    from ray import serve

    from rayplane.runtime.serving.app import build

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    arguments = {
        "model_uri": trained,
        "service": "flight-delay",
        "feature_service": None,
        "max_instances": 50,
    }
    serve.run(build(arguments), name="flight-delay", route_prefix="/flight-delay")
    return f"http://127.0.0.1:{port}/flight-delay"


FLIGHT = {
    "origin": "JFK",
    "dest": "003",
    "carrier": "DL",
    "tailnum": "N1",
    "scheduled_at": "2013-01-10T18:30:00-05:00",
}


def test_a_get_returns_the_schema(url: str, trained: str) -> None:
    shown = httpx.get(url, timeout=30).json()
    assert shown["model"] == trained.removeprefix("models:/")
    assert shown["feature_service"] == flights_data.FEATURE_SERVICE
    assert [c["name"] for c in shown["columns"] if c["required"]] == [
        "origin",
        "dest",
        "carrier",
        "scheduled_at",
    ]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"instances": [{**FLIGHT, "orgin": "JFK"}]}, 422, "orgin"),
        ({"instances": [{k: v for k, v in FLIGHT.items() if k != "carrier"}]}, 422, "carrier"),
        ({"instances": [{**FLIGHT, "distance": "far"}]}, 422, "distance"),
        ({"instances": [FLIGHT] * 51}, 413, "50"),
        ("{", 400, "JSON"),
    ],
)
def test_a_wrong_request_is_answered_by_a_problem_that_names_the_error(
    url: str, body: Any, status: int, named: str
) -> None:
    answer = httpx.post(url, content=body if isinstance(body, str) else json.dumps(body), timeout=30)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert named in answer.json()["detail"]
    assert answer.json()["remedy"]


def test_features_that_cannot_be_read_are_answered_by_503(url: str) -> None:
    """Ask a replica whose context has no Feast project: it reports so instead of predicting without features."""
    answer = httpx.post(url, json={"instances": [FLIGHT]}, timeout=60)
    assert (answer.status_code, answer.json()["title"]) == (503, "Unavailable")
    assert "feature" in answer.json()["detail"]


def test_a_served_prediction_equals_the_models_own(cluster: Cluster, url: str) -> None:
    """Use a model whose requests hold all features, served by the team's own application."""
    import xgboost
    from ray import serve

    from serving.model_app import app

    random = np.random.default_rng(1)
    table = pa.table({"carrier": random.choice(["AA", "UA", "??"], 300).tolist(), "wind": random.random(300)})
    card = models.ModelCard(
        flavor="xgboost",
        request=models.RequestSchema(
            columns=[
                models.RequestColumn(name="carrier", type="string"),
                models.RequestColumn(name="wind", type="number", required=False),
            ]
        ),
        features=[
            models.FeatureColumn(name="carrier", categories=["AA", "UA"]),
            models.FeatureColumn(name="wind"),
        ],
    )
    data = xgboost.DMatrix(models.Encoding(card.features).matrix(table), label=(table["wind"].to_numpy() > 0.4))
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 10)
    uri = models.log(booster, card, table.slice(0, 5), run_id=new_run(cluster))
    serve.run(app({"model_uri": uri, "service": "plain"}), name="plain", route_prefix="/plain")

    instances = [*table.slice(0, 100).to_pylist(), {"carrier": "AA"}]
    answer = httpx.post(url.replace("flight-delay", "plain"), json={"instances": instances}, timeout=60)
    assert answer.status_code == 200, answer.text
    asked = pa.Table.from_pylist([{"carrier": "", "wind": None, **instance} for instance in instances])
    assert answer.json()["predictions"] == models.load(uri).score(asked).tolist()
    assert answer.json()["model"] == uri.removeprefix("models:/")


def test_a_put_is_answered_by_405(url: str) -> None:
    answer = httpx.put(url, json={}, timeout=30)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_wrong_arguments_of_the_application_are_refused_by_name() -> None:
    from rayplane.runtime.serving.app import build
    from serving.model_app import app

    with pytest.raises(InvalidSpec, match="Did you mean 'max_replicas'"):
        build({"model_uri": "models:/m/1", "service": "s", "max_replcas": 2})
    assert app({"model_uri": "models:/m/1", "service": "s"}) is not None
