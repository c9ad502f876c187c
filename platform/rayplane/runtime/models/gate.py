"""Judge a model's figures by the thresholds of its gate. Pure. A metric that was not measured does not pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rayplane.nouns.model import Check, Gate, GateReport, Threshold


def judge(run_id: str, figures: Mapping[str, Any], gate: Gate) -> GateReport:
    """The verdict on a run, with one check for each metric of the gate.

    The report includes all ``figures`` (metric -> number, and other evidence). A metric that is absent, null or not
    finite fails its check; a gate without checks passes no model.
    """
    checks = [_check(metric, threshold, figures.get(metric)) for metric, threshold in gate.metrics.items()]
    passed = bool(checks) and all(check.passed for check in checks)
    return GateReport(run_id=run_id, passed=passed, checks=checks, figures=dict(figures))


def explain(report: GateReport) -> str:
    """One sentence that lists the checks of a passed gate, or those that failed."""
    if report.passed:
        return f"Run {report.run_id} passed its gate: " + ", ".join(_said(check) for check in report.checks) + "."
    failed = [_said(check) for check in report.checks if not check.passed]
    return f"Run {report.run_id} did not pass its gate: {', '.join(failed) or 'the gate checks nothing'}."


def _check(metric: str, threshold: Threshold, value: Any) -> Check:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is not None and not math.isfinite(number):
        number = None
    within = (
        number is not None
        and (threshold.min is None or number >= threshold.min)
        and (threshold.max is None or number <= threshold.max)
    )
    return Check(metric=metric, value=number, bound=_bound(threshold), passed=within)


def _bound(threshold: Threshold) -> str:
    sides = []
    if threshold.min is not None:
        sides.append(f">= {threshold.min:g}")
    if threshold.max is not None:
        sides.append(f"<= {threshold.max:g}")
    return " and ".join(sides) or "measured"


def _said(check: Check) -> str:
    value = "not measured" if check.value is None else f"{check.value:.4f}"
    return f"{check.metric} {value} ({check.bound})"
