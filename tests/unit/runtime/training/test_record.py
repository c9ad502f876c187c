"""Steps, parameters and metrics of a training, without Ray or MLflow."""

from __future__ import annotations

import math

import pytest

from rayplane.runtime.training.record import MAX_VALUE, Fits, Steps, metrics, parameters


def test_parameters_are_flattened_with_dots_and_scaling_has_its_own_prefix() -> None:
    config = {"lr": 0.1, "net": {"layers": [1, 2], "opt": {"name": "sgd"}}, "none": None}
    assert parameters(config, {"num_workers": 2}) == {
        "lr": "0.1",
        "net.layers": "[1, 2]",
        "net.opt.name": "sgd",
        "none": "None",
        "scaling.num_workers": "2",
    }


def test_a_long_parameter_is_cut_to_the_length_that_mlflow_accepts() -> None:
    assert len(parameters({"text": "x" * 10_000}, {})["text"]) == MAX_VALUE


def test_metrics_are_the_numbers_of_a_report_under_names_that_mlflow_accepts() -> None:
    numbers = metrics(
        {"loss": 1, "ok": True, "note": "hi", "eval": {"auc@5": 0.5}, "step": 7, "bad": None, "nan": math.nan}
    )
    assert numbers.pop("nan") != numbers.get("nan")
    assert numbers == {"loss": 1.0, "ok": 1.0, "eval.auc_5": 0.5}


def test_reports_are_numbered_in_order_unless_they_state_their_step() -> None:
    steps = Steps()
    assert steps.take({"loss": 3.0}, checkpoint=False) == (0, {"loss": 3.0})
    assert steps.take({"loss": 2.0}, checkpoint=False) == (1, {"loss": 2.0})
    assert steps.take({"loss": 1.0, "step": 40}, checkpoint=False) == (40, {"loss": 1.0})


def test_restarted_workers_continue_from_the_checkpoint_and_log_no_step_twice() -> None:
    steps = Steps()
    for _ in range(3):
        steps.take({"loss": 1.0}, checkpoint=False)
    steps.take({"loss": 1.0}, checkpoint=True)  # step 3
    steps.take({"loss": 1.0}, checkpoint=False)  # step 4, after which a worker dies
    steps.restart()
    assert steps.take({"loss": 9.0}, checkpoint=False) == (4, {})
    assert steps.take({"loss": 8.0}, checkpoint=False) == (5, {"loss": 8.0})


def test_restarted_workers_without_a_checkpoint_log_no_step_twice() -> None:
    steps = Steps()
    steps.take({"loss": 1.0}, checkpoint=False)
    steps.restart()
    assert steps.take({"loss": 1.0}, checkpoint=False) == (0, {})
    assert steps.take({"loss": 1.0}, checkpoint=False) == (1, {"loss": 1.0})


def test_each_metric_has_its_own_last_step() -> None:
    steps = Steps(logged={"loss": 1})
    assert steps.take({"loss": 1.0, "new": 5.0}, checkpoint=False) == (0, {"new": 5.0})


def test_another_attempt_continues_after_its_checkpoint() -> None:
    steps = Steps(logged={"loss": 5}, checkpoint=3)
    assert [steps.take({"loss": 1.0}, checkpoint=False)[1] for _ in range(4)] == [
        {},
        {},
        {"loss": 1.0},
        {"loss": 1.0},
    ]


def test_the_steps_of_a_scripts_second_training_follow_those_of_the_first() -> None:
    first = Fits().begin("job-1", {})
    second = first.begin("job-1", {"loss": 9})
    assert (first.offset, second.offset) == (0, 10)


@pytest.mark.parametrize("logged", [{"loss": 4}, {"loss": 17}])
def test_the_trainings_of_another_attempt_start_at_the_steps_of_the_first_attempts(logged: dict[str, int]) -> None:
    before = Fits().begin("job-1", {}).begin("job-1", {"loss": 9})
    first = before.begin("job-2", logged)
    assert (first.offset, first.begin("job-2", logged).offset) == (0, 10)


def test_without_a_submission_id_every_training_counts_as_the_first() -> None:
    assert Fits().begin("", {}).begin("", {"loss": 9}).offset == 0
