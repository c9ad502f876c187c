"""The rules for KubeRay's kinds and for pods, on the same mutations that the real API server and operator judge.

Here the rules alone are asked, so that they are tested where there is no Kubernetes; that Kubernetes and the operator
agree is the differential table's matter, tests/kubernetes/preflight.
"""

from __future__ import annotations

import pytest

from rayplane.gateway.backends.kubernetes.preflight import raycluster, raycronjob, rayjob, rayservice
from tests.kubernetes.preflight.cases import FINE, Case, own_cases, updates

RULES = {
    "RayCluster": raycluster.wrong,
    "RayJob": rayjob.wrong,
    "RayService": rayservice.wrong,
    "RayCronJob": raycronjob.wrong,
}
CASES = [
    case
    for case in (*own_cases(), *updates())
    if case.rule == FINE or case.rule.startswith(("ray.", "pod.")) or (".spec." in case.name and "label-" in case.rule)
]


def rules(case: Case) -> set[str]:
    """The rules that a case breaks."""
    return {finding.rule for finding in RULES[case.manifest["kind"]](case.manifest, case.old)}


@pytest.mark.parametrize("case", [case for case in CASES if case.rule], ids=lambda case: case.name[:100])
def test_a_mutation_that_breaks_a_rule_has_its_finding(case: Case) -> None:
    assert case.rule in rules(case)


@pytest.mark.parametrize("case", [case for case in CASES if not case.rule], ids=lambda case: case.name[:100])
def test_a_mutation_that_breaks_no_rule_has_no_finding(case: Case) -> None:
    assert rules(case) == set()


def test_every_finding_says_where_it_is_and_what_to_do() -> None:
    for case in CASES:
        for finding in RULES[case.manifest["kind"]](case.manifest, case.old):
            assert finding.path.startswith(("spec.", "metadata."))
            assert finding.message[-1] not in ".!"
            assert finding.remedy.endswith((".", "?"))
            assert len(finding.remedy) > 5
