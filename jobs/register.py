"""Register the evaluated model and make it the champion, if it passed its gate.

python -m jobs.register
"""

from __future__ import annotations

from typing import Any

from jobs import flights_data
from jobs.flights_data import BadInput

MODEL, ALIAS = "flight-delay", "champion"


def main() -> None:
    """Check the gate's verdict, register the run's model once, move the alias, report the version."""
    from rayplane.runtime import context, models, report

    values = context.current().values
    run_id, model_uri = passed(values)
    version = models.register(MODEL, model_uri=model_uri, run_id=run_id, alias=ALIAS)
    report.output("model", {"name": version.name, "version": version.version, "alias": ALIAS})
    print(f"{MODEL}/{version.version} of run {run_id} is {ALIAS}")


def passed(values: dict[str, Any]) -> tuple[str, str]:
    """Run id and URI of the model that passed its gate.

    Raises ``BadInput`` if there is none, if it did not pass, or if the gate judged another model.
    """
    gate, run_id, model_uri = (values.get(name) for name in ("evaluate.gate", "train.run_id", "train.model_uri"))
    if not isinstance(gate, dict) or not isinstance(run_id, str) or not isinstance(model_uri, str):
        raise BadInput(
            "This job knows of no judged model. Run it after the steps 'train' and 'evaluate' of the pipeline."
        )
    if gate.get("run_id") != run_id or gate.get("model_uri") != model_uri:
        raise BadInput(
            f"The gate judged {gate.get('model_uri')} of run {gate.get('run_id')}, not {model_uri} of run {run_id}. "
            "Run the step 'evaluate' again."
        )
    if gate.get("passed") is not True:
        figures = ", ".join(
            f"{k} {gate[k]:.4f}" for k in ("auc", "gain", "ece", "worst_slice_auc") if _number(gate.get(k))
        )
        raise BadInput(
            f"Model {model_uri} of run {run_id} did not pass its gate ({figures}), so it is not registered. "
            "Look at evaluation/report.html on the run, then improve the model or change the gate's parameters."
        )
    return run_id, model_uri


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


if __name__ == "__main__":
    flights_data.run(main)
