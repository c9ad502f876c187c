"""Pre-flight against the real API server and the real operator: one table of specs, and no disagreement unexplained.

Each spec is sent by dry runs that refuse unknown fields; one that the API server takes is applied for good, and the
operator's verdict is read: its Warning events, the statuses ValidationFailed, the pods that it makes or can't make.
PREFLIGHT_TABLE names a file for the table as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import Unavailable
from rayplane.gateway.backends.kubernetes.preflight.check import check
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding
from tests.kubernetes.bed.api import Object
from tests.kubernetes.bed.level_a import LevelA
from tests.kubernetes.preflight.cases import Case, cases
from tests.kubernetes.preflight.shapes import crds
from tests.kubernetes.preflight.verdicts import Server, Verdict
from tests.kubernetes.support import namespace

_RAY_SAYS = "only Ray reads it, once it runs; nothing runs in the pods of fake nodes, and the operator does not look"
_CLAMPED = "the operator takes it for another number, in silence: fewer or more pods come than was said"
_GATE = "the operator's feature gate for it is off by default, and then it looks away"

EXPLAINED: dict[str, str] = {
    "RayCluster ray.negative-replicas": _CLAMPED,
    "RayCluster ray.replicas-over-max": _CLAMPED,
    "RayCluster ray.hosts": _CLAMPED,
    "RayCluster ray.group-twice": "only KubeRay's webhook refuses it, which few install",
    "RayCluster ray.start-resources": _RAY_SAYS,
    "RayCluster ray.start-number": _RAY_SAYS,
    "RayCluster ray.managed-by-unset": "a rule on oldSelf is not asked of a field that goes",
    "RayService ray.managed-by-unset": "a rule on oldSelf is not asked of a field that goes",
    "RayJob ray.submission-mode": "the operator makes the cluster and never submits the job",
    "RayJob ray.entrypoint": _RAY_SAYS,
    "RayJob ray.entrypoint-amount": "the operator reads it when it submits, which it does to a Ray that answers",
    "RayCronJob ray.schedule": _GATE,
    "RayCronJob ray.job-cluster": _GATE,
    "RayService ray.upgrade-options": _GATE,
    "RayService ray.serve-port": "the operator makes that Service once Ray answers, and only then says that it can't",
    **{
        f"RayService ray.serve-{rule}": _RAY_SAYS
        for rule in ("config", "import-path", "unknown", "route", "twice", "application", "deployment")
    },
}
"""``<kind> <rule>`` by which pre-flight refuses what the API server and the operator let pass, and why it does."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_preflight_agrees_with_the_api_server_and_the_operator(level_a: LevelA) -> None:
    try:
        table = cases()
    except Unavailable as error:
        pytest.skip(str(error))
    times: list[float] = []
    ours = {case.name: _timed(case, times) for case in table}
    missed = [case.name for case in table if case.rule and case.rule not in {each.rule for each in ours[case.name]}]
    assert missed == [], "cases that do not break the rule that they are meant for"
    print(f"\none check takes {statistics.median(times) * 1e3:.1f} ms (median), {max(times) * 1e3:.0f} ms at most")
    with namespace(level_a.api) as name:
        server = Server(level_a.api, name)
        try:
            # If pods ran, the operator would wait for their Rays; its verdict is known once it makes pods.
            with level_a.pods_held():
                real = _real(server, table)
        finally:
            server.clear(seconds=180)
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
    used = {f"{row['kind']} {rule}" for row in rows if row["explained"] for rule in row["rules"]}
    print(f"{sum(row['explained'] for row in rows)} disagreements are explained, by {sorted(used)}")
    strays = [row for row in rows if row["refused"] and row["rules"] and row["by"] not in _who(row["findings"])]
    assert strays == [], json.dumps(strays, indent=1)
    unexplained = [row for row in rows if row["disagrees"] and not row["explained"]]
    assert unexplained == [], json.dumps(unexplained, indent=1)
    assert used == set(EXPLAINED), "an explanation is not needed any more"
    assert statistics.median(times) < 0.1
    assert len(rows) >= 150
    assert len(refused) >= 60
    assert len(broken) >= 25
    assert len(from_samples) >= 30


def _timed(case: Case, times: list[float]) -> list[Finding]:
    crd = crds()[case.manifest["kind"]]
    began = time.thread_time()
    findings = check(case.manifest, crd, old=case.old)
    times.append(time.thread_time() - began)
    return findings


def _real(server: Server, table: list[Case]) -> dict[str, Verdict]:
    """The API server's verdict, or the operator's where the API server takes an object."""
    server.prepare([case.manifest for case in table])
    verdicts: dict[str, Verdict] = {}
    sent = {}
    began = time.monotonic()
    with ThreadPoolExecutor(4) as several:
        for case, verdict, accepted in several.map(lambda case: _asked(server, case), table):
            verdicts[case.name] = verdict
            if accepted is not None:
                sent[case.name] = accepted
    asked = time.monotonic()
    verdicts |= server.settle(sent, seconds=120)
    print(f"\nasked the API server in {asked - began:.1f} s, the operator in {time.monotonic() - asked:.1f} s")
    return verdicts


def _asked(server: Server, case: Case) -> tuple[Case, Verdict, Object | None]:
    """The API server's verdict, and the object where it took it and the operator has a say."""
    if case.old is not None:
        verdict = server.ask_change(case.old, case.manifest)
    else:
        verdict, created = server.ask(case.manifest)
        # A create request drops nulls; server-side apply, which the platform uses, does not.
        assert verdict.refused == created.refused or case.rule == "schema.null", (case.name, verdict, created)
    silent = verdict.refused or case.manifest["kind"] == "RayCronJob"
    return case, verdict, None if silent else server.send(case.manifest)


def _row(case: Case, ours: list[Finding], real: Verdict) -> dict[str, Any]:
    rules = sorted({finding.rule for finding in ours})
    disagrees = bool(ours) != real.refused
    return {
        "case": case.name,
        "kind": case.manifest["kind"],
        "sample": case.sample,
        "rules": rules,
        "findings": [dataclasses.asdict(finding) for finding in ours],
        "refused": real.refused,
        "by": real.by,
        "said": real.said,
        "why": sorted({EXPLAINED.get(f"{case.manifest['kind']} {rule}", "") for rule in rules}) if disagrees else [],
        "disagrees": disagrees,
        "explained": disagrees
        and bool(rules)
        and real.refused is False
        and all(f"{case.manifest['kind']} {rule}" in EXPLAINED for rule in rules),
    }


def _who(findings: list[dict[str, str]]) -> set[str]:
    """Which of the two should refuse an object with these findings: the API server comes first."""
    for finding in findings:
        about_pods = ".template." in finding["path"]
        if finding["rule"].startswith(("schema.", "cel")) or (
            finding["rule"].startswith("metadata.") and not about_pods
        ):
            return {"api"}
    return {"operator", "pods"}


def _write(rows: list[dict[str, Any]]) -> None:
    if path := os.environ.get("PREFLIGHT_TABLE"):
        Path(path).write_text(json.dumps(rows, indent=1))
