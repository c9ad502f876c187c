"""Check what the main job reports against what it must reach; for .ci/run, after two runs of `make demo`.

python -m tests.support.report <report.json> --first <seconds> --second <seconds>
python -m tests.support.report --nothing-left <home>
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


def shortfalls(report: Mapping[str, Any], *, first: float, second: float) -> Iterator[str]:
    """Each thing that the report should say and does not; ``first`` and ``second`` are the runs' seconds."""
    rows = report["rows"]
    if rows["ingested"] != FLIGHTS:
        yield f"{rows['ingested']} flights were ingested, not {FLIGHTS}"
    if rows["prepared"] + rows["quarantined"] != rows["ingested"]:
        yield f"rows were lost or made up: {rows}"
    if report["auc"] < LEAST_AUC:
        yield f"the AUC is {report['auc']}, below {LEAST_AUC}"
    if report["auc"] - report["baseline_auc"] < LEAST_GAIN:
        yield f"the AUC is {report['auc']}, not {LEAST_GAIN} above the baseline's {report['baseline_auc']}"
    if len(report["predictions"]) != PREDICTIONS or not all(p["answer"] for p in report["predictions"]):
        yield f"{PREDICTIONS} predictions were to be answered: {report['predictions']}"
    prometheus = report["prometheus"]
    if prometheus is None or prometheus["up"] != prometheus["total"] or not prometheus["total"]:
        yield f"Prometheus does not read every target: {prometheus}"
    if second > first / 2:
        yield f"the second run took {second:.0f} s, more than half of the first's {first:.0f} s"


def main() -> int:
    """Print every shortfall; 1 if there is one."""
    parser = argparse.ArgumentParser(description="Check the main job's report.")
    parser.add_argument("report", nargs="?", type=Path)
    parser.add_argument("--first", type=float)
    parser.add_argument("--second", type=float)
    parser.add_argument("--nothing-left", type=Path)
    asked = parser.parse_args()
    if asked.nothing_left:
        wrong = [f"left over: {what}" for what in LocalPlatform(Home(asked.nothing_left)).left_over()]
    else:
        wrong = list(shortfalls(json.loads(asked.report.read_text()), first=asked.first, second=asked.second))
    print(*(f"report: {line}" for line in wrong or ["all is as it must be"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
