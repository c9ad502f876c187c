"""Figures of a binary classifier, compared with scikit-learn and with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from rayplane.errors import InvalidData
from rayplane.runtime.models import figures


@pytest.fixture
def judged() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    scores = np.round(random.random(5000), 2)  # with many ties
    return (random.random(5000) < scores).astype(float), scores


def test_auc_log_loss_and_brier_equal_scikit_learns(judged: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = judged
    assert figures.auc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert figures.brier(labels, scores) == pytest.approx(sklearn_metrics.brier_score_loss(labels, scores), abs=1e-12)
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    assert figures.log_loss(labels, scores) == pytest.approx(sklearn_metrics.log_loss(labels, clipped), abs=1e-9)


def test_the_area_under_the_roc_curve_is_the_auc(judged: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = judged
    false, true = figures.roc(labels, scores)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert len(false) <= 200
    assert np.trapezoid(true, false) == pytest.approx(figures.auc(labels, scores), abs=1e-3)


def test_tied_scores_make_one_point_of_the_roc_curve() -> None:
    false, true = figures.roc([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5])
    assert (false.tolist(), true.tolist()) == ([0, 1], [0, 1])


def test_perfect_predictions_have_no_calibration_error_and_overconfident_ones_do() -> None:
    random = np.random.default_rng(3)
    chance = random.random(50_000)
    labels = (random.random(50_000) < chance).astype(float)
    assert figures.calibration_error(figures.reliability(labels, chance)) < 0.02
    sure = np.where(chance > 0.5, 0.99, 0.01)
    assert figures.calibration_error(figures.reliability(labels, sure)) > 0.2


def test_the_bins_contain_each_row_once() -> None:
    assert sum(part.rows for part in figures.reliability([0, 1, 1], [0.1, 0.2, 0.3])) == 3


def test_the_worst_slice_has_the_lowest_auc_among_the_large_enough_ones() -> None:
    values = ["a"] * 4 + ["b"] * 4 + ["c"] * 2 + [None]
    labels = [0, 0, 1, 1, 0, 1, 0, 1, 0, 1, 1]
    scores = [0.1, 0.2, 0.3, 0.4, 0.9, 0.1, 0.2, 0.8, 0.9, 0.1, 0.5]
    parts = figures.slices(values, labels, scores)
    assert [(s.value, s.rows) for s in parts] == [("a", 4), ("b", 4), ("c", 2), ("(missing)", 1)]
    assert parts[3].auc is None
    worst = figures.worst(parts, 3)
    assert worst is not None
    assert (worst.value, worst.auc) == ("b", 0.25)
    assert figures.worst(parts, 100) is None


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([1, 1], [0.1, 0.2]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, np.nan]), ([], []), ([0, 1], [0.1])],
)
def test_labels_and_scores_that_cannot_be_judged_are_refused(labels: list[float], scores: list[float]) -> None:
    with pytest.raises(InvalidData):
        figures.auc(labels, scores)
