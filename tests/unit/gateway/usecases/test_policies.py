"""Admission policies, the platform's own and third parties': apply refuses an object, and plan shows the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import Failed, InvalidSpec, RayplaneError, Refused, Unsupported
from rayplane.gateway.usecases.plan import plan
from rayplane.gateway.usecases.why import explain
from rayplane.nouns import NOUNS
from rayplane.nouns.base import Document, Metadata
from rayplane.nouns.noun_type import NounType
from rayplane.nouns.plan import Refusal
from tests.support.distributions import install
from tests.unit.gateway.usecases.conftest import ADA, Bench
from tests.unit.gateway.usecases.test_rules import GOOD

PAID = {"cost-center": "4711"}
ALL = """
from rayplane.errors import Refused


class All:
    kinds = ("Team", "Cluster", "Job", "Pipeline", "Dataset", "Feature", "Model", "Service")

    def check(self, request):
        raise Refused(f"{request.kind} {request.team}/{request.name} of {request.principal.name} is refused.")


class Broken:
    def __init__(self):
        open("/no/such/file")


class Kindless:
    def check(self, request):
        pass


class Crashing(All):
    def check(self, request):
        return request.spec.no_such_field


class Misspelt(All):
    kinds = ("Clutser",)
"""


@pytest.fixture
def acme(bench: Bench, request: pytest.FixtureRequest) -> Bench:
    """The platform with a team and its cluster, which was made before the third party's policy was installed."""
    request.getfixturevalue("third_party")
    return bench


def install_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, code: str) -> None:
    """Install a distribution that brings one policy."""
    (tmp_path / "acme_policies.py").write_text(ALL)
    monkeypatch.syspath_prepend(str(tmp_path))
    install(monkeypatch, tmp_path / name, f"acme-{name}", {"rayplane.policies": {name: code}})


def planned(bench: Bench, kind: str, name: str, spec: dict[str, Any], **labels: str) -> list[Refusal]:
    """All that forbids an object, as plan shows it."""
    team = None if kind == "Team" else "growth"
    document = Document(kind=kind, metadata=Metadata(name=name, team=team, labels=labels), spec=spec)
    (answer,) = plan([document], team=None, principal=ADA, platform=bench.platform).documents
    return answer.forbidden


def shown(error: RayplaneError) -> Refusal:
    """A refusal by apply as plan shows it."""
    return Refusal(code=error.code, message=error.detail, remedy=error.remedy)


def test_a_third_partys_policy_refuses_a_cluster_and_plan_shows_the_same_refusal(acme: Bench) -> None:
    with pytest.raises(Refused, match="Cluster 'growth/new' names no cost center") as refused:
        acme.apply("Cluster", "new", {})
    assert refused.value.remedy == "Add the label 'cost-center' to its metadata."
    assert planned(acme, "Cluster", "new", {}) == [shown(refused.value)]
    assert acme.store.get_or_none("Cluster", "growth", "new") is None


def test_a_cluster_that_meets_the_policy_is_planned_and_applied(acme: Bench) -> None:
    assert planned(acme, "Cluster", "new", {}, **PAID) == []
    _, change, _ = acme.apply("Cluster", "new", {}, labels=PAID)
    assert change == "created"


def test_a_change_is_asked_of_the_policy_too(acme: Bench) -> None:
    with pytest.raises(Refused, match="names no cost center"):
        acme.apply("Cluster", "dev", {"idle_timeout": "1h"})


def test_a_policy_is_not_asked_about_kinds_that_it_does_not_name(acme: Bench) -> None:
    assert planned(acme, "Job", "train", GOOD["Job"]) == []
    _, change, _ = acme.apply("Job", "train", GOOD["Job"])
    assert change == "created"


def test_a_policy_is_no_cause_of_a_cluster_that_is_not_ready(acme: Bench) -> None:
    """It refuses writes; a cluster that was written before goes on."""
    causes = explain("Cluster", "growth", "dev", principal=ADA, platform=acme.platform).causes
    assert not any("cost center" in cause.sentence for cause in causes)


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.kind)
def test_objects_of_every_kind_are_refused_by_a_policy_that_names_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noun: NounType
) -> None:
    team = "" if noun.kind == "Team" else "growth"
    assert planned(bench, noun.kind, "new", GOOD[noun.kind]) == []
    install_policy(monkeypatch, tmp_path, "all", "acme_policies:All")
    with pytest.raises(Refused, match=f"{noun.kind} {team}/new of ada is refused") as refused:
        bench.apply(noun.kind, "new", GOOD[noun.kind], team=team)
    assert planned(bench, noun.kind, "new", GOOD[noun.kind]) == [shown(refused.value)]


def test_the_platforms_own_policy_comes_from_the_same_family(bench: Bench) -> None:
    spec = {**GOOD["Job"], "env": {"RAYPLANE_TEAM": "other"}}
    with pytest.raises(InvalidSpec, match=r"job\.env\.RAYPLANE_TEAM") as refused:
        bench.apply("Job", "train", spec)
    assert planned(bench, "Job", "train", spec) == [shown(refused.value)]


@pytest.mark.parametrize(
    ("name", "code", "error", "message"),
    [
        ("gone", "acme_policies_gone:All", Unsupported, "distribution 'acme-gone' 1.0 names 'acme_policies_gone:All'"),
        ("crashing", "acme_policies:Crashing", Failed, "policy 'crashing' failed with AttributeError"),
        ("broken", "acme_policies:Broken", Failed, "policy 'broken' can't be made: FileNotFoundError"),
        ("kindless", "acme_policies:Kindless", Failed, "policy 'kindless' can't be made: AttributeError"),
        ("misspelt", "acme_policies:Misspelt", Unsupported, "policy 'misspelt' names the kind 'Clutser'"),
    ],
)
def test_a_policy_that_does_not_work_refuses_what_it_might_name(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, error: Any, message: str
) -> None:
    install_policy(monkeypatch, tmp_path, name, code)
    with pytest.raises(error, match=message) as refused:
        bench.apply("Dataset", "flights", {})
    assert planned(bench, "Dataset", "flights", {}) == [shown(refused.value)]


def test_a_policy_that_two_distributions_bring_refuses_and_both_are_named(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, third_party: Mapping[str, Mapping[str, str]]
) -> None:
    (name,) = third_party["policies"]
    install_policy(monkeypatch, tmp_path, name, "acme_policies:All")
    with pytest.raises(Unsupported, match=r"from distribution 'acme-cost-center' 1.0 and .*'acme-rayplane' 1.2.0"):
        bench.apply("Cluster", "new", {}, labels=PAID)
