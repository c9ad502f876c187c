"""The check of the main job's reports finds each thing that can be wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.report import CACHED, shortfalls, spent_seconds


def stages(*, cached: bool, **seconds: float) -> list[dict[str, Any]]:
    made = [{"name": name, "seconds": seconds.get(name, 10.0), "cached": cached} for name in CACHED]
    around = [{"name": name, "seconds": 10.0, "cached": False} for name in ("cluster", "evaluate", "deploy")]
    return [*made, *around]


def report(*, cached: bool = False, **changes: Any) -> dict[str, Any]:
    good = {
        "rows": {"ingested": 336_776, "prepared": 336_000, "quarantined": 776},
        "training_rows": 336_000,
        "feature_views": ["plane"],
        "auc": 0.764,
        "baseline_auc": 0.63,
        "model": {"name": "flight-delay", "version": "1", "alias": "champion"},
        "predictions": [{"request": {}, "answer": {"predictions": [0.5], "model": "flight-delay"}}] * 3,
        "prometheus": {"up": 4, "total": 4},
        "stages": stages(cached=cached),
        "seconds": 120.0,
    }
    return {**good, **changes}


def answered(*predictions: Any) -> dict[str, Any]:
    return {"predictions": [{"request": {}, "answer": {"predictions": list(predictions)}}] * 3}


def found(first: dict[str, Any], again: dict[str, Any], *, second: float = 40) -> list[str]:
    return list(shortfalls(first, again, second=second))


def test_good_reports_pass() -> None:
    assert found(report(), report(cached=True)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": {"ingested": 336_775, "prepared": 336_775, "quarantined": 0}}, "336775 flights"),
        ({"rows": {"ingested": 336_776, "prepared": 336_000, "quarantined": 0}}, "lost or made up"),
        ({"training_rows": 0}, "0 training rows"),
        ({"feature_views": []}, "no feature views"),
        ({"auc": 0.745}, "below 0.75"),
        ({"baseline_auc": 0.70}, "above the baseline"),
        ({"baseline_auc": float("nan")}, "above the baseline"),
        ({"model": {"name": "flight-delay", "version": "1", "alias": "challenger"}}, "alias is challenger"),
        ({"predictions": []}, "3 predictions"),
        ({"predictions": [{"request": {}, "answer": None}] * 3}, "3 predictions"),
        (answered(), "3 predictions"),
        (answered(1.5), "3 predictions"),
        (answered(float("nan")), "3 predictions"),
        (answered("0.5"), "3 predictions"),
        (answered(True), "3 predictions"),
        (answered(0.5, 0.5), "3 predictions"),
        ({"prometheus": {"up": 3, "total": 4}}, "every target"),
        ({"prometheus": {"up": 0, "total": 0}}, "every target"),
        ({"prometheus": None}, "every target"),
    ],
)
def test_a_shortfall_of_either_run_is_named(changes: dict[str, Any], said: str) -> None:
    (line,) = found(report(**changes), report(cached=True))
    assert line.startswith("first run: ")
    assert said in line
    (line,) = found(report(), report(cached=True, **changes))
    assert line.startswith("second run: ")
    assert said in line


def test_a_stage_that_does_not_say_whether_it_was_cached_is_named() -> None:
    silent = [*stages(cached=False), {"name": "predict", "seconds": 1.0}]
    (line,) = found(report(stages=silent), report(cached=True))
    assert line == "first run: whether it was cached is not said of: predict"


def test_the_stages_of_a_run_are_summed() -> None:
    assert spent_seconds(report(stages=stages(cached=False, train=300.0))) == 430


def test_a_first_run_that_a_cache_helped_is_named() -> None:
    lines = found(report(cached=True), report(cached=True))
    assert lines == [f"first run: came from a cache: {', '.join(CACHED)}"]


def test_a_second_run_that_does_a_stage_again_is_named() -> None:
    (line,) = found(report(), report(stages=[s for s in stages(cached=True) if s["name"] != "train"]))
    assert line == "second run: did not come from the cache: train"


def test_a_second_run_that_takes_half_as_long_as_the_first_is_named() -> None:
    assert found(report(), report(cached=True), second=59.9) == []
    (line,) = found(report(), report(cached=True), second=60)
    assert "not less than half" in line
