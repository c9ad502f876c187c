"""Check the quickstart's reports against required figures; for .ci/run, after its first and second run.

python -m tests.support.report <first.json> <second.json> --second <seconds> --load <load>
python -m tests.support.report --nothing-left <home>

``first.json`` is the report of a run on an empty home, hence without cached steps; ``second.json`` of a later run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayplane.settings import Home
from tests.support.local_platform import LocalPlatform

FLIGHTS = 336_776
LEAST_AUC = 0.75
LEAST_GAIN = 0.11
PREDICTIONS = 3
ALIAS = "champion"
MOST_SECONDS = 360.0
"""Expected sum of the first run's stages on two idle cores: printed beside the load, but never a failure."""
CACHED = [
    *(f"ingest-{table}" for table in ("flights", "weather", "planes", "airports", "airlines")),
    "prepare",
    *(f"{made}-features" for made in ("weather", "delay", "plane")),
    "training-set",
    "train",
]
"""Stages that a second run should take from the cache."""


def shortfalls(first: Mapping[str, Any], again: Mapping[str, Any], *, second: float) -> Iterator[str]:
    """Yield a sentence for each requirement that the two reports do not meet.

    ``second`` is the wall time of the second run, which is compared with the first's.
    """
    for run, report in (("first", first), ("second", again)):
        yield from (f"{run} run: {line}" for line in _figures(report))
    stages = {stage["name"]: stage for stage in again["stages"]}
    if helped := [stage["name"] for stage in first["stages"] if stage.get("cached")]:
        yield f"first run: came from a cache: {', '.join(helped)}"
    if redone := [name for name in CACHED if not stages.get(name, {}).get("cached")]:
        yield f"second run: did not come from the cache: {', '.join(redone)}"
    if not second < first["seconds"] / 2:
        yield f"the second run took {second:.0f} s, not less than half of the first's {first['seconds']:.0f} s"


def spent_seconds(report: Mapping[str, Any]) -> float:
    """Sum of all stages' seconds; not the wall time, since steps may run at the same time."""
    return float(sum(stage["seconds"] for stage in report["stages"]))


def _figures(report: Mapping[str, Any]) -> Iterator[str]:
    rows, auc, baseline = report["rows"], report["auc"], report["baseline_auc"]
    if rows["ingested"] != FLIGHTS:
        yield f"{rows['ingested']} flights were ingested, not {FLIGHTS}"
    if rows["prepared"] + rows["quarantined"] != rows["ingested"]:
        yield f"rows were lost or made up: {rows}"
    if not report["training_rows"] > 0:
        yield f"{report['training_rows']} training rows"
    if not report["feature_views"]:
        yield "no feature views"
    if not auc >= LEAST_AUC:
        yield f"the AUC is {auc}, below {LEAST_AUC}"
    if not auc - baseline >= LEAST_GAIN:
        yield f"the AUC is {auc}, not {LEAST_GAIN} above the baseline's {baseline}"
    if report["model"]["alias"] != ALIAS:
        yield f"the model's alias is {report['model']['alias']}, not {ALIAS}"
    answers = [prediction["answer"] for prediction in report["predictions"]]
    if len(answers) != PREDICTIONS or not all(map(one_probability, answers)):
        yield f"{PREDICTIONS} predictions, each from 0 to 1, were to be answered: {answers}"
    prometheus = report["prometheus"]
    if prometheus is None or prometheus["up"] != prometheus["total"] or not prometheus["total"]:
        yield f"Prometheus does not read every target: {prometheus}"
    if unsaid := [stage["name"] for stage in report["stages"] if not isinstance(stage.get("cached"), bool)]:
        yield f"whether it was cached is not said of: {', '.join(unsaid)}"


def one_probability(answer: Any) -> bool:
    """True if a service's answer has one prediction, a number from 0 to 1."""
    predictions = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(predictions, list) or len(predictions) != 1:
        return False
    (value,) = predictions
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def main() -> int:
    """Print the first run's time and every shortfall; return the exit code, 1 if there is a shortfall."""
    parser = argparse.ArgumentParser(description="Check the main job's reports.")
    parser.add_argument("reports", nargs="*", type=Path, metavar="report", help="The first run's, the second's.")
    parser.add_argument("--second", type=float, help="Wall time of the second run, in seconds.")
    parser.add_argument("--load", type=float, help="The machine's load of five minutes when the first run began.")
    parser.add_argument("--nothing-left", type=Path, metavar="HOME")
    asked = parser.parse_args()
    if asked.nothing_left:
        wrong = [f"left over: {what}" for what in LocalPlatform(Home(asked.nothing_left)).left_over()]
    else:
        if len(asked.reports) != 2 or asked.second is None or asked.load is None:
            parser.error("needs two reports, --second and --load, or --nothing-left")
        first, again = (json.loads(path.read_text()) for path in asked.reports)
        print(
            f"report: the first run's stages took {spent_seconds(first):.0f} s together (at most {MOST_SECONDS:.0f}), "
            f"the run {first['seconds']:.0f} s, the second {asked.second:.0f} s; the load was {asked.load:.1f} at first"
        )
        wrong = list(shortfalls(first, again, second=asked.second))
    print(*(f"report: {line}" for line in wrong or ["all is as it must be"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
