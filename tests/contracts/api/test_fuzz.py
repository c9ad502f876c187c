"""The gateway keeps what its OpenAPI document promises: schemathesis, with a fixed seed, as each kind of principal.

`python -m tests.support.fuzz_api --seed N --examples M` does the same for longer.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fuzz_api import PRINCIPALS, Finding, run, seeded

SEED = 19


def told(findings: list[Finding]) -> str:
    return "\n".join(str(finding) for finding in findings[:20])


def test_each_answer_to_an_admin_is_as_the_document_says_in_all_phases(tmp_path: Path) -> None:
    with seeded(tmp_path) as platform:
        findings, asked = run(platform, "admin", seed=SEED, examples=4)
    assert not findings, told(findings)
    # That each phase asked, and much of it: a document that describes nothing would be kept as well.
    assert asked["examples"] >= 8
    assert asked["coverage"] >= 3000
    assert asked["fuzzing"] >= 200
    assert asked["stateful"] >= 10


@pytest.mark.parametrize("principal", [name for name in PRINCIPALS if name != "admin"])
def test_each_answer_to_any_other_principal_is_as_the_document_says(tmp_path: Path, principal: str) -> None:
    with seeded(tmp_path) as platform:
        findings, asked = run(platform, principal, seed=SEED, examples=2, phases=("examples", "fuzzing", "stateful"))
    assert not findings, told(findings)
    assert asked["fuzzing"] >= 100
