"""benchmarks/kubernetes.py still measures: run small, on a bed of its own. How long anything takes is not asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_CLONE = Path(__file__).parents[2]


@pytest.mark.timeout(600)
@pytest.mark.skipif("KUBECONFIG" in os.environ, reason="it stops components of its cluster: unset KUBECONFIG")
def test_the_benchmark_makes_changes_observes_and_takes_over_a_fleet() -> None:
    asked = ["--part", "kwok", "--clusters", "10", "--changes", "1", "--steady", "2", "--patience", "200"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kubernetes", *asked], cwd=_CLONE, capture_output=True, text=True
    )
    print(done.stderr)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)
    fleet = report["parts"]["kwok"]
    assert fleet["clusters"] == 10
    assert set(fleet["met"]) == set(report["wanted"]) - {"adds_seconds"}
    for calls, least in (
        (fleet["made"]["calls_each"], 3),  # a RayCluster, its Secret, the annotation with its hash
        (fleet["changes_in_store"]["calls_each"], 1),
        (fleet["steady"]["calls_per_minute"], 0),
    ):
        assert calls["gateway"] == calls["audit_log"] >= least
    for how in ("stopped", "killed"):
        assert fleet[how]["seconds_to_converged"] >= fleet[how]["seconds_to_serving"] > 0


def test_a_part_that_can_not_be_measured_says_what_is_missing(tmp_path: Path) -> None:
    # No tools are built in an empty cache.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
    environment["RAYPLANE_CACHE"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kubernetes", "--part", "operator", "--clusters", "10"],
        cwd=_CLONE,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert "make kubernetes-tools" in done.stderr
