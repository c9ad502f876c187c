"""The backend's queries for `why`: each call yields evidence of a fault that no other call yields."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rayplane.errors import Unsupported
from rayplane.gateway.backends.base import ClusterRef, Evidence, ObjectRef
from rayplane.gateway.backends.kubernetes.kinds import WORKLOAD
from rayplane.gateway.backends.kubernetes.preflight.kueue import QUEUE
from rayplane.nouns.cluster import ClusterSpec, Workers
from rayplane.nouns.team import Quota, Size
from rayplane.testing.backend_contract import BackendCase
from tests.kubernetes import dedicated, gateway
from tests.kubernetes.bed.api import wait_for
from tests.kubernetes.bed.level_a import LevelA
from tests.kubernetes.support import has_workloads, make_workloads_a_kind, namespace

Fact = tuple[str, str]
"""Source and reason."""


@pytest.fixture(scope="module")
def shared(level_a: LevelA, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendCase]:
    """One backend and one team for this module."""
    spec = gateway.TEAM_SPEC.model_copy(
        update={"quota": Quota()}
    )  # no quota of the team's: only the tests' own faults are evidence
    with gateway.placed(level_a, kubeconfig, tmp_path_factory.mktemp("home"), spec) as case:
        yield case


@pytest.fixture
def case(shared: BackendCase) -> Iterator[BackendCase]:
    """A cluster of its own for each test, in that team; deleted after it."""
    ref = ClusterRef(shared.team.name, f"c{secrets.token_hex(3)}", secrets.token_hex(16))
    made = replace(shared, ref=ref)
    yield made
    made.backend.clusters.delete(ref)
    made.until("absent")


def evidence_of(
    case: BackendCase, *wanted: Fact, ask: Callable[[], list[Evidence]] | None = None
) -> dict[Fact, Evidence]:
    """Evidence about a cluster, or the answer of ``ask``, once it includes all of ``wanted``."""
    ask = ask or (lambda: case.backend.clusters.evidence(case.ref))

    def look() -> dict[Fact, Evidence] | None:
        evidence: dict[Fact, Evidence] = {(fact.source, fact.reason): fact for fact in ask()}
        return evidence if set(wanted) <= set(evidence) else None

    try:
        return wait_for(f"{wanted} told of {case.ref}", look, seconds=case.patience, every=0.3)
    except TimeoutError as exc:
        exc.add_note(f"Told is: {ask()}")
        raise


def test_a_healthy_cluster_has_no_evidence(case: BackendCase) -> None:
    case.spec = ClusterSpec(workers=Workers(min=1, max=1))  # no autoscaler, which no fake pod has
    case.ensure()
    case.until("ready")
    wait_for("nothing told", lambda: not case.backend.clusters.evidence(case.ref), seconds=case.patience)


def test_a_team_without_a_namespace(shared: BackendCase) -> None:
    [fact] = shared.backend.clusters.evidence(ClusterRef(f"t{secrets.token_hex(4)}", "dev", secrets.token_hex(16)))
    assert fact.reason == "NamespaceMissing"


def test_a_head_without_a_node_is_evident_from_its_pod(case: BackendCase) -> None:
    case.launch = replace(case.launch, size=Size(cpu=5000, memory=2**30))
    case.ensure()
    fact = evidence_of(case, ("pod", "Unschedulable"))["pod", "Unschedulable"]
    assert fact.about.startswith(f"pod/{case.ref.name}-head-")
    assert "Insufficient cpu" in fact.message


def test_a_full_quota_is_evident_from_itself_from_an_event_and_from_the_cluster(
    level_a: LevelA, case: BackendCase
) -> None:
    where, full = f"rayplane-{case.team.name}", ("quota", "Full")
    tight = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight", "namespace": where}}
    case.ensure()
    case.until("ready")
    level_a.api.create({**tight, "spec": {"hard": {"pods": "1"}}})
    try:
        assert "pods 1 of 1" in evidence_of(case, full)[full].message
        case.spec = ClusterSpec(workers=Workers(min=1, max=3))
        case.ensure()
        event, condition = ("event", "FailedToCreateWorkerPod"), ("cluster", "FailedCreateWorkerPod")
        evidence = evidence_of(case, event, condition)
        for fact in (evidence[event], evidence[condition]):
            assert (fact.node, fact.about) == ("worker", f"raycluster/{case.ref.name}")
    finally:
        level_a.api.delete("v1", "ResourceQuota", "tight", where)


def test_a_job_that_the_operator_refuses_is_evident_from_its_rayjob(
    level_a: LevelA, shared: BackendCase, kubeconfig: Path, tmp_path: Path
) -> None:
    with gateway.backend_on(kubeconfig, tmp_path, ray_version="2.40.0") as old:
        case = dedicated.case_on(level_a, old, tmp_path, shared.team.name)
        case.ensure_job()
        ref = ObjectRef(case.job.team, case.job.name, case.job.uid)
        evidence = evidence_of(shared, ("operator", "ValidationFailed"), ask=lambda: old.jobs.evidence(ref))
        assert "minimum Ray version is 2.52.0" in evidence["operator", "ValidationFailed"].message
        old.jobs.delete(case.job)
        case.job_until(lambda seen: seen.phase == "absent")


def test_an_operator_that_gave_up_its_lease_is_evident_from_the_lease(
    level_a: LevelA, kubeconfig: Path, shared: BackendCase, tmp_path: Path
) -> None:
    with namespace(level_a.api) as elsewhere:
        level_a.api.create(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": "ray-operator-leader", "namespace": elsewhere},
                "spec": {"leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
            }
        )
        with gateway.backend_on(kubeconfig, tmp_path, operator_namespace=elsewhere) as backend:
            evidence = evidence_of(replace(shared, backend=backend), ("operator", "Down"))
        assert evidence["operator", "Down"].about == "lease/ray-operator-leader"


def test_a_cluster_in_kueues_queue_is_evident_from_its_workload(level_a: LevelA, case: BackendCase) -> None:
    case.ensure()
    case.until("ready")
    cluster = level_a.api.get(gateway.RAY, "RayCluster", case.ref.name, f"rayplane-{case.team.name}")
    assert cluster is not None
    queue = {"metadata": {"labels": {QUEUE: "team"}}}
    level_a.api.patch(gateway.RAY, "RayCluster", case.ref.name, queue, cluster["metadata"]["namespace"])
    if not has_workloads(level_a.api):
        if not isinstance(level_a, LevelA):
            raise Unsupported("Kueue's kinds are not there.", remedy="Install Kueue, or unset KUBECONFIG.")
        make_workloads_a_kind(level_a.api)
    owner = {"apiVersion": gateway.RAY, "kind": "RayCluster", "name": case.ref.name, "uid": cluster["metadata"]["uid"]}
    meta = {"name": case.ref.name, "namespace": cluster["metadata"]["namespace"], "ownerReferences": [owner]}
    level_a.api.create(
        {"apiVersion": WORKLOAD.api_version, "kind": WORKLOAD.name, "metadata": meta, "spec": {"queueName": "team"}}
    )
    fact = evidence_of(case, ("quota", "Pending"))["quota", "Pending"]
    assert fact.about == f"workload/{case.ref.name}"
    assert "its queue is 'team'" in fact.message
