"""Pre-flight against the real API server and the real operator: one table of specs, and no disagreement unexplained.

Each spec is sent by dry runs that refuse unknown fields; one that the API server takes is applied for good, and the
operator's verdict is read: its Warning events, the statuses ValidationFailed, the pods that it makes or can't make.
RAYPLANE_PREFLIGHT_TABLE names a file for the table as JSON.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import Unavailable
from rayplane.gateway.backends.kubernetes.preflight.check import check
from tests.kubernetes.bed.level_a import LevelA
from tests.kubernetes.preflight.cases import Case, cases
from tests.kubernetes.preflight.shapes import crds
from tests.kubernetes.preflight.verdicts import Server, Verdict
from tests.kubernetes.support import namespace

EXPLAINED: dict[str, str] = {}
"""Rules by which pre-flight refuses what the API server and the operator let pass, and why it does."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_preflight_agrees_with_the_api_server_and_the_operator(level_a: LevelA) -> None:
    try:
        table = cases()
    except Unavailable as error:
        pytest.skip(str(error))
    ours = {case.name: check(case.manifest, crds()[case.manifest["kind"]], old=case.old) for case in table}
    missed = [case.name for case in table if case.rule and case.rule not in {each.rule for each in ours[case.name]}]
    assert missed == [], "cases that do not break the rule that they are meant for"
    with namespace(level_a.api) as name:
        real = _real(Server(level_a.api, name), table)
    rows = [_row(case, ours[case.name], real[case.name]) for case in table]
    _write(rows)
    broken = {rule for row in rows if row["refused"] for rule in row["rules"]}
    refused = [row for row in rows if row["refused"]]
    from_samples = {case.sample for case in table if case.sample}
    by = Counter(f"{row['by']}: {'refused' if row['refused'] else 'taken'}" for row in rows)
    print(
        f"\n{len(rows)} specs, {len(refused)} refused by the real thing, {len(broken)} distinct rules broken, "
        f"{sum(1 for case in table if case.sample)} specs from {len(from_samples)} samples; {dict(sorted(by.items()))}"
    )
    used = {rule for row in rows if row["explained"] for rule in row["rules"]}
    print(f"{sum(row['explained'] for row in rows)} disagreements are explained, by {sorted(used)}")
    unexplained = [row for row in rows if row["disagrees"] and not row["explained"]]
    assert unexplained == [], json.dumps(unexplained, indent=1)
    assert used == set(EXPLAINED), "an explanation is not needed any more"
    assert len(rows) >= 150
    assert len(refused) >= 60
    assert len(broken) >= 25
    assert len(from_samples) >= 30


def _real(server: Server, table: list[Case]) -> dict[str, Verdict]:
    """The API server's verdict, or the operator's where the API server takes an object."""
    server.prepare([case.manifest for case in table])
    found: dict[str, Verdict] = {}
    sent = {}
    began = time.monotonic()
    for case in table:
        if case.old is not None:
            found[case.name] = server.ask_change(case.old, case.manifest)
        else:
            applied, created = server.ask(case.manifest)
            null = {finding.rule for finding in check(case.manifest, crds()[case.manifest["kind"]])} == {"schema.null"}
            assert applied.refused == created.refused or null, (case.name, applied, created)
            found[case.name] = applied
        if not found[case.name].refused and case.manifest["kind"] != "RayCronJob":
            sent[case.name] = server.send(case.manifest)
    asked = time.monotonic()
    found |= server.settle(sent, seconds=240)
    print(f"\nasked the API server in {asked - began:.1f} s, the operator in {time.monotonic() - asked:.1f} s")
    return found


def _row(case: Case, ours: list[Any], real: Verdict) -> dict[str, Any]:
    rules = sorted({finding.rule for finding in ours})
    disagrees = bool(ours) != real.refused
    return {
        "case": case.name,
        "kind": case.manifest["kind"],
        "sample": case.sample,
        "rules": rules,
        "findings": [str(finding) for finding in ours],
        "refused": real.refused,
        "by": real.by,
        "said": real.said,
        "disagrees": disagrees,
        "explained": disagrees and bool(rules) and real.refused is False and set(rules) <= set(EXPLAINED),
    }


def _write(rows: list[dict[str, Any]]) -> None:
    if path := os.environ.get("RAYPLANE_PREFLIGHT_TABLE"):
        Path(path).write_text(json.dumps(rows, indent=1))
