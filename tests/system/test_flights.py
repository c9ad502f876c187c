"""The whole pipeline on 30 days of real flights, from raw tables to a served model, on a real platform."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayplane.client.sdk import Client
from rayplane.nouns.pipeline import RunStatus
from tests.support.flights import TEAM, Flights, value_of, version_of
from tests.support.stock_ray import StockRay
from tests.support.tracking import mlflow_client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def api(flights: Flights) -> Client:
    """An SDK client."""
    return flights.client


def test_rows_in_are_rows_out_and_quarantined(run: RunStatus, api: Client) -> None:
    for name in ("flights", "weather", "planes"):
        raw = api.datasets.version(TEAM, f"{name}-raw", version_of(run, f"ingest-{name}", f"{name}-raw"))
        good = api.datasets.version(TEAM, name, version_of(run, "prepare", name))
        bad = api.datasets.version(TEAM, f"{name}-quarantine", version_of(run, "prepare", f"{name}-quarantine"))
        assert raw.rows == good.rows + bad.rows
        assert good.rows > 0


def test_training_has_one_complete_mlflow_run(run: RunStatus, api: Client, flights: Flights) -> None:
    run_id = value_of(run, "train", "run_id")
    job = api.jobs.get(TEAM, str(next(s.job for s in run.steps if s.name == "train")))
    assert job.status["run_id"] == run_id
    client = mlflow_client(flights.platform, TEAM)
    mlflow_run = client.get_run(run_id)
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.tags["rayplane.job"].endswith("train")
    steps = [m.step for m in client.get_metric_history(run_id, "valid_auc")]
    assert len(steps) == len(set(steps)) >= 3
    assert mlflow_run.inputs.dataset_inputs[0].dataset.name == "training-set"
    assert mlflow_run.inputs.dataset_inputs[0].dataset.digest == version_of(run, "training-set", "training-set")
    files = {f.path for f in client.list_artifacts(run_id, "evaluation")}
    assert files == {"evaluation/figures.json", "evaluation/report.html"}


def test_the_service_answers_with_the_registered_version(run: RunStatus, api: Client) -> None:
    service = api.services.wait(TEAM, "flight-delay", timeout=240)
    registered = value_of(run, "register", "model")
    assert registered["alias"] == "champion"
    assert service.status["revision"]["version"] == registered["version"]
    described = httpx.get(service.status["url"]).json()
    assert described["model"] == f"flight-delay/{registered['version']}"
    answer = httpx.post(service.status["url"], json=described["example"], timeout=30)
    assert answer.status_code == 200
    assert 0 <= answer.json()["predictions"][0] <= 1


@pytest.mark.parametrize(
    ("change", "column"),
    [({"origin": None}, "origin"), ({"carier": "B6"}, "carier"), ({"scheduled_at": "tomorrow"}, "scheduled_at")],
)
def test_a_request_that_does_not_fit_is_a_422_naming_the_column(
    run: RunStatus, api: Client, change: dict[str, Any], column: str
) -> None:
    service = api.services.wait(TEAM, "flight-delay", timeout=240)
    example = httpx.get(service.status["url"]).json()["example"]["instances"][0]
    answer = httpx.post(service.status["url"], json={"instances": [{**example, **change}]}, timeout=30)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert column in answer.json()["detail"]


def test_served_features_are_the_offline_joins_and_predictions_the_models_own(
    run: RunStatus, api: Client, flights: Flights
) -> None:
    service = api.services.wait(TEAM, "flight-delay", timeout=240)
    package = api.packages.upload(TEAM, flights.folder)
    steps = ("weather-features", "delay-features", "plane-features")
    pinned = {
        o.name: str(o.value)
        for s in run.steps
        for o in s.outputs
        if o.kind == "dataset" and (s.name in steps or s.name == "prepare")
    }
    job = api.jobs.submit(
        TEAM,
        {
            "entrypoint": "python -m jobs.served_check",
            "cluster": "dev",
            "package": package,
            "tracked": False,
            "inputs": pinned,
            "parameters": {
                "materialized_at": value_of(run, "materialize", "materialized_at"),
                "service_url": service.status["url"],
            },
        },
    )
    ended = api.jobs.wait(TEAM, job.metadata.name, timeout=300)
    log = "".join(api.jobs.logs(TEAM, job.metadata.name, follow=False))
    assert ended.status["phase"] == "Succeeded", log
    compared = next(o["value"] for o in ended.status["outputs"] if o["name"] == "compared")
    assert compared["different"] == 0, log
    assert compared["rows"] >= 1_000
    assert compared["empty"] == [], "every feature has a value for some entity"
    assert compared["nulls"] > compared["rows"]
    assert compared["known"] > compared["rows"]
    assert compared["predictions"] == 200
    assert compared["largest_difference"] < 1e-6


def test_stock_ray_submits_the_training_and_it_is_tracked_once(
    run: RunStatus, api: Client, flights: Flights, stock_ray: StockRay
) -> None:
    done = stock_ray.run(
        flights.platform, TEAM, "job", "submit", "--working-dir", str(flights.folder),
        "--submission-id", "raysubmit_TRAIN", "--", "python", "-m", "jobs.train",
    )  # fmt: skip
    assert "trees" in done.stdout
    job = next(j for j in api.jobs.list(TEAM) if j.spec.get("submission_id") == "raysubmit_TRAIN")
    assert job.status["phase"] == "Succeeded"
    client = mlflow_client(flights.platform, TEAM)
    runs = client.search_runs([job.status["experiment_id"]], f"tags.`rayplane.job_uid` = '{job.metadata.uid}'")
    assert [r.info.run_id for r in runs] == [job.status["run_id"]]
    assert runs[0].info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(job.status["run_id"], "valid_auc")]
    assert len(steps) == len(set(steps)) >= 3


def test_lineage_leads_from_the_model_to_the_sources_and_back(run: RunStatus, api: Client, flights: Flights) -> None:
    model = f"model:flight-delay/{value_of(run, 'register', 'model')['version']}"
    up = {edge.source for edge in api.lineage(TEAM, model, "up")}
    assert f"dataset:training-set@{version_of(run, 'training-set', 'training-set')}" in up
    assert any(node.startswith(f"source:{flights.sources.as_uri()}/weather.parquet") for node in up)
    weather = f"dataset:weather@{version_of(run, 'prepare', 'weather')}"
    assert model in {edge.target for edge in api.lineage(TEAM, weather, "down")}


def test_a_missing_column_fails_the_ingest_with_a_remedy(flights: Flights, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = tmp_path / "raw"
    shutil.copytree(flights.sources, folder)
    table = pq.read_table(folder / "flights.parquet")
    pq.write_table(table.drop_columns(["dep_delay"]), folder / "flights.parquet")
    status = flights.run(source=f"{folder.as_uri()}/", rounds="30")
    assert status.phase == "Failed"
    step = next(s for s in status.steps if s.name == "ingest-flights")
    with flights.client as api:
        log = "".join(api.jobs.logs(TEAM, str(step.job), follow=False))
    assert "dep_delay" in log
    assert {s.phase for s in status.steps if s.name == "prepare"} == {"Skipped"}


def test_no_data_fails_the_run_before_any_step_and_names_the_file(flights: Flights, tmp_path: Path) -> None:
    status = flights.run(source=f"{(tmp_path / 'nothing').as_uri()}/")
    assert status.phase == "Failed"
    assert "can't be read" in status.message
    assert "rayplane job logs" in status.message
