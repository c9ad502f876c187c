"""The Train callback with a real MLflow store; the tests call its hooks as Ray Train's controller does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from ray.train import RunConfig, ScalingConfig
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from rayplane.nouns.job import RunContext
from rayplane.runtime import context, report
from rayplane.runtime.training import callback as module
from rayplane.runtime.training import tracking
from rayplane.runtime.training.callback import (
    CHECKPOINT_STEP_TAG,
    CHECKPOINT_TAG,
    LOST_TAG,
    MlflowTrainCallback,
)
from tests.support import mlflow_store


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_store.store(tmp_path_factory.mktemp("mlflow")) as experiment_id:
        yield experiment_id


@pytest.fixture
def run(experiment: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that the platform allocated, in a real store."""
    run_id = str(MlflowClient().create_run(experiment).info.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    return run_id


class Training:
    """One training, with the calls that Ray Train's controller makes."""

    def __init__(self, folder: Path, name: str = "fit", config: dict[str, Any] | None = None) -> None:
        self.folder = folder / name
        self.callback = MlflowTrainCallback()
        self.callback.after_controller_start(
            TrainRunContext(
                run_config=RunConfig(name=name, storage_path=str(folder)),
                train_loop_config=config,
                scaling_config=ScalingConfig(num_workers=2),
                backend_config=None,  # type: ignore[arg-type]  # the callback does not use it
                dataset_config=None,  # type: ignore[arg-type]
            )
        )
        self.start_workers()

    def start_workers(self) -> None:
        self.callback.after_worker_group_start([object(), object()])  # type: ignore[arg-type]

    def report(self, checkpoint: str | None = None, **metrics: float) -> None:
        saved = None if checkpoint is None else SimpleNamespace(path=f"{self.folder}/{checkpoint}")
        ranks = [metrics, {k: v + 100 for k, v in metrics.items()}]
        self.callback.after_report(_TrainingReport(saved, metrics, False), ranks)  # type: ignore[arg-type]

    def end(self) -> None:
        asyncio.run(self.callback.before_controller_shutdown())


def history(run: str, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient().get_metric_history(run, metric)]


def test_a_training_logs_parameters_metrics_by_step_and_tags(run: str, tmp_path: Path) -> None:
    training = Training(tmp_path, config={"lr": 0.1})
    training.report(loss=3.0)
    training.report("c1", loss=2.0)
    training.end()
    logged = MlflowClient().get_run(run)
    assert logged.data.params["lr"] == "0.1"
    assert logged.data.params["scaling.num_workers"] == "2"
    assert history(run, "loss") == [(0, 3.0), (1, 2.0)]  # the metrics of rank 0
    assert logged.data.tags["ray.train.world_size"] == "2"
    assert logged.data.tags[CHECKPOINT_TAG].endswith("/fit/c1")
    assert logged.data.tags[CHECKPOINT_STEP_TAG] == "1"
    assert logged.info.status == "RUNNING"  # the platform ends the run


def test_a_step_is_logged_once_even_if_workers_and_attempts_restart(run: str, tmp_path: Path) -> None:
    first = Training(tmp_path)
    first.report(loss=5.0)
    first.report("c1", loss=4.0)
    first.report(loss=3.0)
    first.start_workers()
    first.report(loss=3.5)
    first.end()
    second = Training(tmp_path)  # with the same storage, so it resumes from c1
    second.report(loss=3.6)
    second.report(loss=2.0)
    second.end()
    assert history(run, "loss") == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)]


def test_an_attempt_that_trains_from_the_start_logs_no_step_twice(run: str, tmp_path: Path) -> None:
    for name in ("one", "other"):
        training = Training(tmp_path, name)
        training.report("c1", loss=5.0)
        training.report(loss=4.0)
        training.end()
    assert history(run, "loss") == [(0, 5.0), (1, 4.0)]


def wait_for_starts(gateway: Any, count: int) -> None:
    """Wait until the background thread has reported the starts, before the test's gateway is closed."""
    deadline = time.monotonic() + 20
    while sum(e["type"] == "run.started" for e in gateway.events()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert report.flush(10)


def test_the_steps_of_a_second_training_follow_those_of_the_first(
    run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gateway: Any,
    make_context: Callable[..., RunContext],
) -> None:
    monkeypatch.setenv("RAYPLANE_SUBMISSION_ID", "uid1-1")
    with context.override(make_context(run_id=run)):
        for name in ("one", "other"):
            training = Training(tmp_path, name, {"fold": name})
            training.report(loss=1.0)
            training.report(loss=2.0)
            training.end()
        wait_for_starts(gateway, 2)
    assert [step for step, _ in history(run, "loss")] == [0, 1, 2, 3]
    assert MlflowClient().get_run(run).data.params["fold"] == "one"  # MLflow's parameters never change


def test_the_start_of_the_run_is_reported_to_the_platform(
    run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gateway: Any,
    make_context: Callable[..., RunContext],
) -> None:
    monkeypatch.setenv("RAYPLANE_SUBMISSION_ID", "uid1-2")
    with context.override(make_context(run_id=run, attempt=2)):
        Training(tmp_path).end()
        wait_for_starts(gateway, 1)
    assert [(e["type"], e["data"]) for e in gateway.events()] == [("run.started", {"run_id": run, "attempt": 2})]


def test_without_a_run_the_callback_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("RAYPLANE_SUBMISSION_ID", raising=False)
    training = Training(tmp_path)
    training.report(loss=1.0)
    training.end()
    training.callback.before_controller_abort()


def test_an_untracked_job_trains_untracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_context: Callable[..., RunContext]
) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("RAYPLANE_SUBMISSION_ID", "uid1-1")
    with context.override(make_context(run_id=None)):
        training = Training(tmp_path)
        training.report(loss=1.0)
        training.end()


def test_metrics_are_written_once_mlflow_is_back(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = MlflowClient.get_run, iter([ConnectionError("MLflow is away")] * 2)

    def flaky(self: MlflowClient, run_id: str) -> Any:
        for failure in failures:
            raise failure
        return real(self, run_id)

    monkeypatch.setattr(MlflowClient, "get_run", flaky)
    training = Training(tmp_path)
    training.report(loss=1.0)
    training.end()
    assert history(run, "loss") == [(0, 1.0)]
    assert "MLflow is away" in caplog.text


def test_metrics_that_mlflow_keeps_refusing_are_a_warning_and_a_value_and_training_ends(
    run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gateway: Any,
    make_context: Callable[..., RunContext],
) -> None:
    def refuse(self: MlflowClient, run_id: str, **kwargs: Any) -> None:
        raise ConnectionError("no disk there")

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    monkeypatch.setattr(module, "FINISH_PATIENCE", 1.0)
    monkeypatch.setenv("RAYPLANE_SUBMISSION_ID", "uid1-1")
    with context.override(make_context(run_id=run)):
        training = Training(tmp_path)
        training.report(loss=1.0)
        training.end()
        wait_for_starts(gateway, 1)
    assert "no disk there" in caplog.text
    outputs = [e["data"] for e in gateway.events() if e["type"] == "output.recorded"]
    assert outputs[0]["name"] == "tracking"
    assert outputs[0]["value"]["lost"] >= 1
    assert "no disk there" in outputs[0]["value"]["reason"]
    assert "no disk there" in MlflowClient().get_run(run).data.tags[LOST_TAG]


def test_attaching_leaves_the_run_running_and_the_environment_as_it_was(run: str) -> None:
    with tracking.attach() as active:
        mlflow.log_metric("m", 1.0)
        assert active.info.run_id == run
    assert MlflowClient().get_run(run).info.status == "RUNNING"
    assert mlflow.active_run() is None
    assert tracking.run_id() == run
