"""Judge the trained model by a gate, on flights that it was not trained on, and log the evidence to its run.

python -m jobs.evaluate

Parameters: ``min_auc``, ``min_gain`` (AUC above the carrier-and-hour baseline), ``max_ece`` (expected
calibration error), ``min_slice_auc`` (of the worst carrier with at least ``min_slice_rows`` flights). A model that
fails the gate is a result, not an error: the report says so, and jobs.register refuses the model.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs import flights_data
from jobs.flights_data import BadInput

if TYPE_CHECKING:
    from rayplane.runtime.models import Gate, GateReport

THRESHOLDS: dict[str, float] = {
    "min_auc": 0.75,
    "min_gain": 0.11,
    "max_ece": 0.05,
    "min_slice_auc": 0.65,
    "min_slice_rows": 500,
}
"""Parameter -> its default."""

Scores = npt.NDArray[np.floating[Any]]


def main() -> None:
    """Score the test part of ``training-set`` with the run's model, judge, log figures and page, report the verdict."""
    from mlflow import MlflowClient

    from rayplane.runtime import context, datasets, models, report
    from rayplane.runtime.models import figures, page

    ctx = context.current()
    run_id, model_uri = _value(ctx.values, "train.run_id"), _value(ctx.values, "train.model_uri")
    thresholds = parse_thresholds(ctx.parameters)
    train, _, test = flights_data.split(datasets.read("training-set"))
    labels = flights_data.labels(test)
    # Scored with the encoding in the model's card, as serving will do.
    scores = models.load(model_uri).score(test)
    baseline = flights_data.baseline_scores(train, test)

    carriers = figures.slices(test["carrier"].to_pylist(), labels, scores)
    bins = figures.reliability(labels, scores)
    measured = measure(labels, scores, baseline, test, min_slice_rows=int(thresholds["min_slice_rows"]))
    verdict = models.judge(run_id, measured, gate(thresholds))

    client = MlflowClient()
    evidence = {
        **verdict.model_dump(mode="json"),
        "reliability": figures.plain(bins),
        "carriers": figures.plain(carriers),
    }
    client.log_dict(run_id, evidence, "evaluation/figures.json")
    html = page.render(
        verdict,
        title="Flight delay: October to December" if _is_autumn(test) else "Flight delay: a slice",
        curves={"model": figures.roc(labels, scores), "carrier and hour": figures.roc(labels, baseline)},
        bins=bins,
        slices=carriers,
        sliced_by="carrier",
    )
    client.log_text(run_id, html, "evaluation/report.html")
    _log_figures(client, run_id, verdict)
    report.emit("gate.judged", verdict.model_dump(mode="json"))
    report.output("gate", {"passed": verdict.passed, "run_id": run_id, "model_uri": model_uri, **measured})
    print(models.explain(verdict))
    print(json.dumps(measured, indent=1))


def parse_thresholds(parameters: dict[str, str]) -> dict[str, float]:
    """The gate's thresholds: the parameters that are set, else the defaults. Raises ``BadInput`` for a non-number."""
    wanted = dict(THRESHOLDS)
    for name in THRESHOLDS:
        text = parameters.get(name, "").strip()
        if not text:
            continue
        try:
            wanted[name] = float(text)
        except ValueError as error:
            raise BadInput(f"The parameter {name}={text!r} is no number. Write it as {THRESHOLDS[name]:g}.") from error
        if not np.isfinite(wanted[name]):
            raise BadInput(f"The parameter {name}={text!r} is not finite. Write it as {THRESHOLDS[name]:g}.")
    return wanted


def gate(thresholds: dict[str, float]) -> Gate:
    """The gate with these thresholds for the figures of ``measure``."""
    from rayplane.runtime.models import Gate, Threshold

    return Gate(
        metrics={
            "auc": Threshold(min=thresholds["min_auc"]),
            "gain": Threshold(min=thresholds["min_gain"]),
            "ece": Threshold(max=thresholds["max_ece"]),
            "worst_slice_auc": Threshold(min=thresholds["min_slice_auc"]),
        }
    )


def measure(
    labels: Scores, scores: Scores, baseline: Scores, rows: pa.Table, *, min_slice_rows: int
) -> dict[str, float | int | str | None]:
    """The figures of one set of rows. ``worst_slice_*`` are None if no carrier has ``min_slice_rows`` rows."""
    from rayplane.runtime.models import figures

    auc, baseline_auc = figures.auc(labels, scores), figures.auc(labels, baseline)
    worst = figures.worst(figures.slices(rows["carrier"].to_pylist(), labels, scores), min_slice_rows)
    return {
        "rows": rows.num_rows,
        "late_rate": float(np.mean(labels)),
        "auc": auc,
        "baseline_auc": baseline_auc,
        "gain": auc - baseline_auc,
        "log_loss": figures.log_loss(labels, scores),
        "baseline_log_loss": figures.log_loss(labels, baseline),
        "brier": figures.brier(labels, scores),
        "ece": figures.calibration_error(figures.reliability(labels, scores)),
        "worst_slice": worst.value if worst else None,
        "worst_slice_auc": worst.auc if worst else None,
        "worst_slice_rows": worst.rows if worst else None,
    }


def _log_figures(client: Any, run_id: str, verdict: GateReport) -> None:
    """Log the figures as metrics ``test_*``, but not again a value that is on the run already."""
    known = client.get_run(run_id).data.metrics
    for name, value in verdict.figures.items():
        if isinstance(value, int | float) and known.get(f"test_{name}") != float(value):
            client.log_metric(run_id, f"test_{name}", float(value))
    client.set_tag(run_id, "rayplane.gate", "passed" if verdict.passed else "failed")


def _value(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise BadInput(f"The value '{name}' is not known to this job. Run it after the step 'train' of the pipeline.")
    return value


def _is_autumn(rows: pa.Table) -> bool:
    return set(rows["month"].unique().to_pylist()) == {10, 11, 12}


if __name__ == "__main__":
    flights_data.run(main)
