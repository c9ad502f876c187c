"""The rules are the one list of checks: apply enforces, plan collects and why explains the same ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from rayplane.errors import Conflict, InvalidInput, RayplaneError, Refused
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.backends.base import Capability
from rayplane.gateway.usecases import job
from rayplane.gateway.usecases.plan import plan
from rayplane.gateway.usecases.rules import RULES
from rayplane.gateway.usecases.rules.base import Rules
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.gateway.usecases.why import explain
from rayplane.nouns import NOUNS, by_kind
from rayplane.nouns.base import Document, Metadata, parse
from rayplane.nouns.job import JobSpec, JobStatus
from rayplane.nouns.noun_type import NounType
from tests.unit.gateway.usecases.conftest import ADA, Bench

TEAM_ADMIN = Principal(name="tess", role="admin", team="growth")
PIPELINE = {"cluster": "dev", "steps": {"a": {"entrypoint": "true"}}}
GOOD: dict[str, dict[str, Any]] = {
    "Team": {},
    "Cluster": {},
    "Job": {"entrypoint": "true", "cluster": "dev"},
    "Pipeline": PIPELINE,
    "Dataset": {},
    "Feature": {},
    "Model": {},
    "Service": {"model": "models:/m@champion", "cluster": "dev"},
}
"""A spec of each kind that passes its rules."""
OWN = {"size": "small"}
REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("Team", "members", {"members": {"\u202e": "member"}}),
    ("Team", "backend", {"backend": "nowhere"}),
    ("Team", "grant", {"quota": {"cpu": 999}}),
    ("Cluster", "backend", {"backend": "nowhere"}),
    ("Cluster", "acted-on", {"suspended": True}),
    ("Cluster", "address", {"address": "http://127.0.0.1:8265"}),
    ("Cluster", "change", {"size": "medium"}),
    ("Cluster", "size", {"size": "huge"}),
    ("Cluster", "lifetime", {"max_lifetime": "900d"}),
    ("Cluster", "preflight", {}),
    ("Cluster", "quota", {"size": "small", "workers": {"min": 0, "max": 99}}),
    ("Job", "preflight", {"entrypoint": "true", "nodes": OWN}),
    ("Job", "backend", {"entrypoint": "true", "nodes": {**OWN, "backend": "nowhere"}}),
    ("Job", "size", {"entrypoint": "true", "nodes": {"size": "huge"}}),
    ("Job", "values", {**GOOD["Job"], "parameters": {"key": "AKIAABCDEFGHIJKLMNOP"}}),
    ("Job", "jobs", GOOD["Job"]),
    ("Job", "package", {**GOOD["Job"], "package": f"sha256:{'0' * 64}"}),
    ("Job", "policy:env", {**GOOD["Job"], "env": {"RAYPLANE_TEAM": "x"}}),
    ("Job", "cluster", {"entrypoint": "true", "cluster": "gone"}),
    ("Job", "environment", {**GOOD["Job"], "metadata": {"rayplane.ray": "1.0.0"}}),
    ("Job", "quota", {"entrypoint": "true", "nodes": {**OWN, "workers": {"min": 0, "max": 99}}}),
    ("Pipeline", "content", {**PIPELINE, "package": f"sha256:{'0' * 64}"}),
    ("Service", "preflight", {"model": "models:/m@champion", "nodes": OWN}),
    ("Service", "backend", {"model": "models:/m@champion", "nodes": {**OWN, "backend": "nowhere"}}),
    ("Service", "size", {"model": "models:/m@champion", "nodes": {"size": "huge"}}),
    ("Service", "quota", {"model": "models:/m@champion", "nodes": {**OWN, "workers": {"min": 0, "max": 99}}}),
    ("Service", "change", {"model": "models:/m@champion", "cluster": "other"}),
    ("Service", "package", {**GOOD["Service"], "package": f"sha256:{'0' * 64}"}),
    ("Service", "cluster", {"model": "models:/m@champion", "cluster": "gone"}),
]
"""Kind, the name of a check in its rules, and a spec that this check refuses."""
EXISTING = {("Team", "grant"): "growth", ("Cluster", "change"): "dev", ("Service", "change"): "on-dev"}
"""Names of the objects whose change is refused; all others are new."""
UNREACHED = {"names"}
"""Checks of values that the types of a spec refuse before."""


class Without(Rules):
    """The rules of a kind without one check."""

    def __init__(self, rules: Rules, name: str) -> None:
        self._rules = rules
        self._name = name
        self.reconciled = rules.reconciled

    def before(self, draft: Draft) -> Iterator[Check]:
        return (check for check in self._rules.before(draft) if check.name != self._name)

    def reserve(self, draft: Draft) -> Iterator[Check]:
        return (check for check in self._rules.reserve(draft) if check.name != self._name)

    def first_status(self, draft: Draft) -> Any:
        return self._rules.first_status(draft)


class With(Without):
    """The rules of a kind with one more check, in ``before`` or in ``reserve``."""

    def __init__(self, rules: Rules, stage: str) -> None:
        super().__init__(rules, "")
        self._stage = stage

    def before(self, draft: Draft) -> Iterator[Check]:
        yield from super().before(draft)
        if self._stage == "before":
            yield Check("more", _refuse)

    def reserve(self, draft: Draft) -> Iterator[Check]:
        yield from super().reserve(draft)
        if self._stage == "reserve":
            yield Check("more", _refuse)


def _refuse() -> None:
    raise RayplaneError("It is refused by one more check.")


@pytest.fixture
def narrow(bench: Bench) -> Bench:
    """A team with a small quota and short lifetimes, and a backend that refuses everything."""
    bench.apply("Team", "growth", {"quota": {"cpu": 16}, "max_lifetime": "8h"}, team="")
    bench.backend.reasons = ["No room."]
    return bench


def refusal(bench: Bench, kind: str, spec: dict[str, Any], name: str = "new", principal: Principal = ADA) -> str | None:
    """The message with which apply refuses the spec; None if it would write it."""
    try:
        bench.apply(kind, name, spec, team="" if kind == "Team" else "growth", dry_run=True, principal=principal)
    except RayplaneError as exc:
        return str(exc.fields.get("reasons") or exc.detail)
    return None


def planned(bench: Bench, kind: str, spec: dict[str, Any], name: str = "new", principal: Principal = ADA) -> list[str]:
    """All messages with which plan forbids the spec."""
    team = None if kind == "Team" else "growth"
    document = Document(kind=kind, metadata=Metadata(name=name, team=team), spec=spec)
    (answer,) = plan([document], team=None, principal=principal, platform=bench.platform).documents
    return [refusal.message for refusal in answer.forbidden]


def arrange(bench: Bench, kind: str, name: str) -> tuple[str, Principal]:
    """Bring about what the check refuses; return the name of the object and the principal to ask as."""
    if name != "preflight":
        bench.backend.reasons = []
    bench.backend.capabilities = frozenset(Capability)
    if name == "acted-on":
        bench.backend.capabilities -= {Capability.SUSPEND}
    if name == "jobs":
        bench.apply("Team", "growth", {"quota": {"jobs": 0}}, team="")
    if (kind, name) == ("Service", "change"):
        bench.apply("Service", "on-dev", GOOD["Service"])
        bench.apply("Cluster", "other", {})
    return EXISTING.get((kind, name), "new"), TEAM_ADMIN if name == "grant" else ADA


@pytest.mark.parametrize(("kind", "name", "spec"), REFUSED, ids=[f"{kind}-{name}" for kind, name, _ in REFUSED])
def test_apply_and_plan_lose_a_check_that_is_removed_from_the_rules(
    narrow: Bench, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, spec: dict[str, Any]
) -> None:
    target, principal = arrange(narrow, kind, name)
    refused = refusal(narrow, kind, spec, target, principal)
    assert refused is not None
    messages = planned(narrow, kind, spec, target, principal)
    assert any(message in refused for message in messages), (refused, messages)
    monkeypatch.setitem(RULES, kind, Without(RULES[kind], name))  # type: ignore[arg-type]
    again = refusal(narrow, kind, spec, target, principal)
    assert again != refused
    assert [message for message in planned(narrow, kind, spec, target, principal) if message in refused] == []


def test_each_check_of_the_rules_is_among_those_that_are_removed(bench: Bench) -> None:
    names: set[tuple[str, str]] = set()
    for kind, name, spec in REFUSED:
        target, principal = arrange(bench, kind, name)
        noun, team = by_kind(kind), "" if kind == "Team" else "growth"
        owner = bench.store.get("Team", "", "growth") if team else None
        before = bench.store.get(kind, team, target) if target != "new" else None
        parsed = parse(noun.spec, spec, noun.singular)
        draft = Draft(noun, target, parsed, owner, before, principal, bench.platform)
        checks = [*RULES[kind].before(draft), *RULES[kind].reserve(draft)]
        names |= {(kind, check.name) for check in checks if check.name not in UNREACHED}
    assert names == {(kind, name) for kind, name, _ in REFUSED}


@pytest.mark.parametrize("stage", ["before", "reserve"])
@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.kind)
def test_apply_and_plan_of_every_kind_gain_a_check_that_is_added_to_the_rules(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, noun: NounType, stage: str
) -> None:
    spec = GOOD[noun.kind]
    assert refusal(bench, noun.kind, spec) is None
    assert planned(bench, noun.kind, spec) == []
    monkeypatch.setitem(RULES, noun.kind, With(RULES[noun.kind], stage))  # type: ignore[arg-type]
    assert refusal(bench, noun.kind, spec) == "It is refused by one more check."
    assert planned(bench, noun.kind, spec) == ["It is refused by one more check."]


def test_why_a_cluster_is_not_ready_is_explained_by_the_same_checks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply("Cluster", "dev", {})
    monkeypatch.setitem(RULES, "Cluster", With(RULES["Cluster"], "before"))  # type: ignore[arg-type]
    causes = explain("Cluster", "growth", "dev", principal=ADA, platform=bench.platform).causes
    assert any("refused by one more check" in cause.sentence for cause in causes)


def test_every_kind_has_rules() -> None:
    assert set(RULES) == {noun.kind for noun in NOUNS} | {"PipelineRun"}
    assert all(by_kind(kind).kind == kind for kind in RULES)


def test_no_backend_is_asked_within_a_write_transaction(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    in_transaction = []

    def ask(*_: Any) -> list[str]:
        in_transaction.append(bench.store._connection is not None)
        return []

    for port in (bench.backend.clusters, bench.backend.jobs, bench.backend.services):
        monkeypatch.setattr(port, "preflight", ask)
    for kind in ("Cluster", "Job", "Service"):
        spec = {**GOOD[kind], "cluster": None, "nodes": OWN} if kind != "Cluster" else {}
        bench.apply(kind, "one", spec)
        planned(bench, kind, spec, "two")
    assert in_transaction == [False] * 6


def test_other_requests_write_and_read_while_many_submissions_wait_for_a_slow_backend(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, asked = threading.Event(), threading.Semaphore(0)

    def ask(*_: Any) -> list[str]:
        asked.release()
        assert released.wait(120)
        return []

    monkeypatch.setattr(bench.backend.jobs, "preflight", ask)
    spec = {"entrypoint": "true", "nodes": OWN, "tracked": False}
    with ThreadPoolExecutor(200) as pool:
        submissions = [pool.submit(bench.apply, "Job", f"j{number}", spec) for number in range(200)]
        assert asked.acquire(timeout=60), "the backend is asked about one of them"
        try:
            for number in range(20):
                bench.apply("Dataset", f"d{number}", {})
                bench.apply("Job", f"quick{number}", GOOD["Job"])
                bench.store.get("Dataset", "growth", f"d{number}")
        finally:
            released.set()
        ended = [submission.exception(timeout=120) for submission in submissions]
    made = sum(error is None for error in ended)
    assert made >= 8, "those that the backend was asked about"
    assert {type(error).__name__ for error in ended if error is not None} <= {"Unavailable"}
    assert bench.store.count("Job", "growth") == made + 20
    assert JobStatus.model_validate(bench.store.get("Job", "growth", "quick0").status).phase == "Pending"


def prepared(bench: Bench, **spec: Any) -> Callable[[], Any]:
    """A submission whose slow checks are made, and which is not written yet."""
    asked = parse(JobSpec, {"entrypoint": "true", "tracked": False, **spec}, "job")
    return job.prepare(asked, team="growth", name="late", labels=None, principal=ADA, platform=bench.platform)


def test_a_job_is_not_written_into_a_team_that_is_deleted_while_its_backend_is_asked(bench: Bench) -> None:
    write = prepared(bench, nodes=OWN)
    bench.delete("Cluster", "dev")
    bench.store.remove(bench.store.get("Cluster", "growth", "dev").metadata.uid)
    bench.delete("Team", "growth", team="")
    with pytest.raises(Conflict, match="is being deleted"):
        write()
    assert bench.store.count("Job", "growth") == 0


def test_a_job_is_checked_against_the_quota_that_holds_when_it_is_written(bench: Bench) -> None:
    write = prepared(bench, nodes=OWN)
    bench.apply("Team", "growth", {"quota": {"cpu": 1}}, team="")
    with pytest.raises(Refused, match="quota 'cpu' is exceeded"):
        write()


def test_a_job_that_is_deleted_while_it_is_submitted_again_is_not_made_anew_unchecked(bench: Bench) -> None:
    bench.apply("Job", "late", {"entrypoint": "true", "tracked": False, "cluster": "dev"})
    write = prepared(bench, cluster="dev")
    bench.store.remove(bench.store.get("Job", "growth", "late").metadata.uid)
    with pytest.raises(Conflict, match="was deleted meanwhile"):
        write()


def test_a_job_that_is_there_is_no_obstacle_to_a_plan_where_there_is_no_mlflow(bench: Bench) -> None:
    settings = bench.platform.settings.model_copy(update={"mlflow_url": None})
    bench.platform = replace(bench.platform, settings=settings)
    bench.apply("Job", "train", GOOD["Job"])
    assert planned(bench, "Job", GOOD["Job"], "train") == []


def test_a_backend_that_can_not_be_opened_is_told_on_the_document_that_names_it(bench: Bench) -> None:
    known = bench.backend

    def readers(name: str) -> Any:
        if name == "kubernetes":
            raise InvalidInput("Its settings are wrong.")
        return known

    bench.platform = replace(bench.platform, readers=readers)
    assert planned(bench, "Cluster", {"backend": "kubernetes"}) == ["Its settings are wrong."]
    assert planned(bench, "Dataset", {}) == []
