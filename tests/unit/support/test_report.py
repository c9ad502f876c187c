"""The check of the main job's report finds each thing that can be wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.report import shortfalls


def report(**changes: Any) -> dict[str, Any]:
    good = {
        "rows": {"ingested": 336_776, "prepared": 336_000, "quarantined": 776},
        "auc": 0.764,
        "baseline_auc": 0.63,
        "predictions": [{"request": {}, "answer": {"predictions": [0.5]}}] * 3,
        "prometheus": {"up": 4, "total": 4},
    }
    return {**good, **changes}


def test_a_good_report_passes() -> None:
    assert list(shortfalls(report(), first=300, second=90)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": {"ingested": 336_775, "prepared": 336_775, "quarantined": 0}}, "336775 flights"),
        ({"rows": {"ingested": 336_776, "prepared": 336_000, "quarantined": 0}}, "lost or made up"),
        ({"auc": 0.745}, "below 0.75"),
        ({"baseline_auc": 0.70}, "above the baseline"),
        ({"predictions": []}, "3 predictions"),
        ({"predictions": [{"request": {}, "answer": None}] * 3}, "3 predictions"),
        ({"prometheus": {"up": 3, "total": 4}}, "every target"),
        ({"prometheus": None}, "every target"),
    ],
)
def test_a_shortfall_is_named(changes: dict[str, Any], said: str) -> None:
    (found,) = shortfalls(report(**changes), first=300, second=90)
    assert said in found


def test_a_second_run_that_does_all_again_is_named() -> None:
    (found,) = shortfalls(report(), first=300, second=280)
    assert "more than half" in found
