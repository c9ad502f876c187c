"""The gateway's responses match its OpenAPI document: schemathesis with a fixed seed, as each kind of principal.

`python -m tests.support.fuzz_api --seed N --examples M` runs the same with more examples.
"""

from __future__ import annotations

import pytest

from tests.support.fuzz_api import PRINCIPALS, Finding, run_alone

SEED = 19
SUCCEEDING = {"team-admin": 15, "member": 15, "viewer": 10, "cluster": 10, "metrics": 3, "none": 2}
"""Routes that at least answer a request of the principal with a 2xx."""


def listed(findings: list[Finding]) -> str:
    return "\n".join(str(finding) for finding in findings[:20])


def test_each_response_to_an_admin_matches_the_document_in_all_phases() -> None:
    findings, asked = run_alone("admin", seed=SEED, examples=4)
    assert not findings, listed(findings)
    # Each phase sent requests, and enough of them: with a document that describes nothing there would be none.
    assert asked["examples"] >= 8
    assert asked["coverage"] >= 3000
    assert asked["fuzzing"] >= 200
    assert asked["stateful"] >= 10
    assert asked["routes"] >= 40, "so many routes answered a request with a 2xx"


@pytest.mark.parametrize("principal", [name for name in PRINCIPALS if name != "admin"])
def test_each_response_to_any_other_principal_matches_the_document(principal: str) -> None:
    findings, asked = run_alone(principal, seed=SEED, examples=2, phases=("examples", "fuzzing", "stateful"))
    assert not findings, listed(findings)
    assert asked["fuzzing"] >= 100
    assert asked["routes"] >= SUCCEEDING[principal]
