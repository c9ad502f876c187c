"""Take one call to the API server out of the adapter at a time: the contract must turn red each time."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kubernetes import mutant
from tests.kubernetes.bed.level_a import LevelA

_HERE = Path(__file__).parent
CONTRACT = [str(_HERE / "test_backend_contract.py")]
OF_OWN_NODES = [str(_HERE / "test_dedicated.py"), "-k", "TestJobs or TestServices or secrets or another_gateway"]
"""What asks for the calls that jobs' and services' own nodes need."""
PATIENCE = "20"
"""Seconds for which the contract waits: what is taken away does not come."""


class Outcome(NamedTuple):
    """What became of the contract."""

    site: mutant.Site | None
    code: int
    said: str
    seconds: float


def test_every_module_that_calls_the_api_server_is_mutated() -> None:
    calling = {
        path.stem
        for path in mutant._FOLDER.glob("*.py")
        if path.stem != "api" and list(mutant._calls(ast.parse(path.read_text())))
    }
    assert calling == set(mutant.MODULES)


@pytest.mark.timeout(900)
def test_without_any_one_call_the_contract_turns_red(level_a: LevelA) -> None:
    sites: list[mutant.Site | None] = [None, *mutant.sites()]
    assert _run(level_a.kubeconfig, None, OF_OWN_NODES).code == 0
    assert len(sites) > 10
    with ThreadPoolExecutor(max_workers=3) as pool:  # they wait for most of the time
        outcomes = list(pool.map(lambda site: _run(level_a.kubeconfig, site, _contract_of(site)), sites))
    for outcome in outcomes:
        what = "nothing taken out" if outcome.site is None else f"{outcome.site.id} line {outcome.site.line}"
        verdict = {0: "green", 1: "red"}.get(outcome.code, f"exit code {outcome.code}")
        print(f"{what}: {verdict} after {outcome.seconds:.0f} s  {_last(outcome)}")
    whole, mutants = outcomes[0], outcomes[1:]
    assert whole.code == 0, whole.said
    survivors = [f"{o.site.id}: {o.site.text}" for o in mutants if o.site is not None and o.code == 0]
    assert survivors == []
    assert {o.code for o in mutants} == {1}, [o.said[-2000:] for o in mutants if o.code != 1]


def _contract_of(site: mutant.Site | None) -> list[str]:
    return OF_OWN_NODES if site is not None and site.module in ("jobs", "services") else CONTRACT


def _run(kubeconfig: Path, site: mutant.Site | None, contract: list[str]) -> Outcome:
    began = time.monotonic()
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "TEST_PATIENCE": PATIENCE}
    if site is not None:
        environment[mutant.VARIABLE] = site.id
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "tests.kubernetes.mutant", "--no-header", *contract],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Outcome(site, done.returncode, done.stdout + done.stderr, time.monotonic() - began)


def _last(outcome: Outcome) -> str:
    failed = [line for line in outcome.said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].rpartition("::")[2] if failed else ""
