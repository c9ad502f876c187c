"""Remove one call to the API server from the adapter at a time: the contract must fail each time."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes import gateway, mutant
from tests.kubernetes.bed.level_a import LevelA
from tests.kubernetes.support import make_workloads_a_kind

PATIENCE = "15"
"""Seconds for which the contract waits for an effect that the removed call would have had."""


def test_every_module_that_calls_the_api_server_is_mutated() -> None:
    calling = {
        path.stem
        for path in mutant._FOLDER.glob("*.py")
        if path.stem != "api" and list(mutant._calls(ast.parse(path.read_text())))
    }
    assert calling == set(mutant.MODULES)


@pytest.fixture
def warm(level_a: LevelA, tmp_path: Path) -> None:
    """Wait until the garbage collector knows RayClusters, so that deletions are quick; define Kueue's kind.

    The collector looks for new kinds twice a minute.
    """
    with gateway.backend_on(gateway.install(level_a), tmp_path) as backend:
        case = gateway.case_on(level_a, backend, tmp_path)
        case.patience = 120
        case.until_nothing_is_missing(lambda: backend.teams.ensure(case.team, case.team_spec))
        case.ensure()
        case.until("ready")
        backend.clusters.delete(case.ref)
        case.until("absent")
    gateway.remove(level_a.api, case.team)
    make_workloads_a_kind(level_a.api)


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("warm")
def test_the_contract_fails_without_any_one_of_the_calls(level_a: LevelA) -> None:
    environment = {**os.environ, "KUBECONFIG": str(level_a.kubeconfig), "TEST_PATIENCE": PATIENCE}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kubernetes.mutant"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    outcomes: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    for outcome in sorted(outcomes, key=lambda outcome: str(outcome["site"])):
        verdict = {0: "green", 1: "red"}.get(outcome["code"], f"exit code {outcome['code']}")
        print(f"{outcome['site']:12} {outcome['call'][:60]:60} {verdict} after {outcome['seconds']} s {outcome['by']}")
    whole = [outcome for outcome in outcomes if not outcome["site"]]
    mutants = [outcome for outcome in outcomes if outcome["site"]]
    assert [outcome["code"] for outcome in whole] == [0, 0, 0], whole
    assert len(mutants) == len(mutant.sites())
    assert [outcome["site"] for outcome in mutants if outcome["code"] == 0] == [], "no test needs these calls"
    assert {outcome["code"] for outcome in mutants} == {1}, [o["said"] for o in mutants if o["code"] != 1]
    assert [outcome["said"] for outcome in mutants if not outcome["by"]] == [], "no test is said to have failed"
