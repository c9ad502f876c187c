"""The gate: thresholds and figures in, a verdict out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rayplane.nouns.model import Gate, Threshold
from rayplane.runtime.models.gate import explain, judge

GATE = Gate(metrics={"auc": Threshold(min=0.75), "ece": Threshold(max=0.05)})


def test_figures_within_all_bounds_pass() -> None:
    report = judge("r1", {"auc": 0.75, "ece": 0.05, "note": "kept"}, GATE)
    assert report.passed
    assert report.figures["note"] == "kept"
    assert "passed" in explain(report)


@pytest.mark.parametrize(
    ("figures", "failed"), [({"auc": 0.7499, "ece": 0.01}, "auc"), ({"auc": 0.8, "ece": 0.051}, "ece")]
)
def test_one_figure_beyond_its_bound_fails_the_gate_and_is_named(figures: dict[str, float], failed: str) -> None:
    report = judge("r1", figures, GATE)
    assert not report.passed
    assert [check.metric for check in report.checks if not check.passed] == [failed]
    assert failed in explain(report)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.9", True])
def test_a_metric_that_was_not_measured_fails_the_gate(value: Any) -> None:
    report = judge("r1", {"auc": value, "ece": 0.01}, GATE)
    assert not report.passed
    assert "not measured" in explain(report)


def test_a_gate_without_checks_passes_no_model() -> None:
    report = judge("r1", {"auc": 1.0}, Gate())
    assert not report.passed
    assert "checks nothing" in explain(report)


def test_a_threshold_with_two_bounds_shows_both() -> None:
    report = judge("r1", {"rate": 0.5}, Gate(metrics={"rate": Threshold(min=0.1, max=0.4)}))
    assert (report.checks[0].bound, report.passed) == (">= 0.1 and <= 0.4", False)
