"""`why` on the real API server with the real scheduler and operator: each cause from a fault that is really there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rayplane.nouns.team import Size
from tests.kubernetes.asked import Asked, asked
from tests.kubernetes.bed.api import Object, wait_for
from tests.kubernetes.bed.level_a import LevelA
from tests.kubernetes.support import restricted_pod

SIZES = {
    "small": Size(cpu=1, memory=2**30),
    "huge": Size(cpu=5000, memory=2**30),
    "gpu": Size(cpu=1, memory=2**30, gpu=1),
}


@pytest.fixture(scope="module")
def shared(level_a: LevelA, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """One team for the faults of single clusters."""
    with asked(level_a, kubeconfig, tmp_path_factory.mktemp("home"), sizes=SIZES) as made:
        yield made


@pytest.fixture
def own(level_a: LevelA, kubeconfig: Path, tmp_path: Path) -> Iterator[Asked]:
    """A team of the test's own, for faults of its namespace."""
    with asked(level_a, kubeconfig, tmp_path, sizes=SIZES) as made:
        yield made


def head_of(manifest: Object) -> Object:
    """The template of the head's pod."""
    pod_spec: Object = manifest["spec"]["headGroupSpec"]["template"]["spec"]
    return pod_spec


def tighten(own: Asked, **hard: str) -> None:
    """Give the team's namespace a quota, and wait until it counts: that it does once its status is written."""
    meta = {"name": "tight", "namespace": own.namespace}
    own.api.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}})

    def counts() -> bool:
        quota = own.api.get("v1", "ResourceQuota", "tight", own.namespace)
        return quota is not None and bool((quota.get("status") or {}).get("hard"))

    wait_for("a quota that counts", counts, seconds=60)


@contextmanager
def nodes(bed: LevelA, change: dict[str, Any], undone: dict[str, Any]) -> Iterator[None]:
    """Every node changed for the time of the block."""
    names = [node["metadata"]["name"] for node in bed.api.list("v1", "Node")]
    for name in names:
        bed.api.patch("v1", "Node", name, {"spec": change})
    try:
        yield
    finally:
        for name in names:
            bed.api.patch("v1", "Node", name, {"spec": undone})


def test_a_healthy_cluster_has_no_cause_from_its_creation_to_its_deletion(shared: Asked) -> None:
    ref = shared.want("well", workers={"min": 1, "max": 1})
    phases: set[str] = set()

    def ready() -> bool:
        shared.reconcile(ref)
        answer = shared.why("clusters", "well")
        phases.update(cause.code for cause in answer.causes)
        return answer.phase == "Ready"

    wait_for("cluster ready", ready, seconds=60)
    assert phases <= {"starting", "waiting", "other"}, "a starting cluster must have no other cause"
    answer = shared.until(ref, reconciled=True)
    assert answer.sentence == f"Cluster '{ref}' is as wanted."


def test_a_full_resource_quota(own: Asked) -> None:
    tighten(own, **{"requests.cpu": "500m"})
    ref = own.want("dev")
    answer = own.until(ref, "namespace-quota", reconciled=True)
    assert "ResourceQuota 'tight'" in answer.sentence
    assert "it asks for requests.cpu=1" in answer.sentence


def test_a_limit_range(own: Asked) -> None:
    limits = [{"type": "Container", "max": {"memory": "512Mi"}}]
    meta = {"name": "low", "namespace": own.namespace}
    own.api.create({"apiVersion": "v1", "kind": "LimitRange", "metadata": meta, "spec": {"limits": limits}})
    answer = own.until(own.want("dev"), "limit-range", reconciled=True)
    assert "maximum memory usage per Container is 512Mi, but limit is 1Gi" in answer.sentence


def test_pod_security(shared: Asked) -> None:
    ref = shared.want("privileged")

    def privileged(manifest: Object) -> None:
        head_of(manifest)["containers"][0]["securityContext"] = {"privileged": True}

    shared.make(ref, privileged)
    answer = shared.until(ref, "pod-security")
    assert "Pod Security 'restricted:latest'" in answer.sentence
    assert "privileged" in answer.sentence


def test_a_missing_service_account(own: Asked) -> None:
    own.api.delete("v1", "ServiceAccount", "rayplane-team", own.namespace)
    answer = own.until(own.want("dev"), "service-account-missing", reconciled=True)
    assert "'rayplane-team'" in answer.sentence


def test_a_policy_that_denies_its_pods(own: Asked) -> None:
    rbac = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    name = f"no-ray-{own.team.name}"
    own.api.apply(
        {
            "apiVersion": rbac,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": "false", "message": "Not in this house."}],
            },
        }
    )
    binding = {
        "apiVersion": rbac,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": own.namespace}}},
        },
    }
    own.api.apply(binding)
    try:
        wait_for("policy in force", lambda: _denied(own), seconds=60)
        answer = own.until(own.want("dev"), "webhook-denied", reconciled=True)
    finally:
        own.api.delete(rbac, "ValidatingAdmissionPolicyBinding", name)
        own.api.delete(rbac, "ValidatingAdmissionPolicy", name)
    assert "Not in this house" in answer.sentence


def _denied(own: Asked) -> bool:
    pod = restricted_pod("probe", own.namespace, "x", ["true"])
    try:
        own.api.request("POST", own.api.path("v1", "Pod", namespace=own.namespace), params={"dryRun": "All"}, json=pod)
    except Exception as error:  # noqa: BLE001  # the assertion below checks which error it is
        return "Not in this house" in str(error)
    return False


@pytest.mark.parametrize(
    ("size", "code", "words"),
    [("huge", "insufficient-cpu", "too few cores free"), ("gpu", "insufficient-gpu", "too few GPUs free")],
)
def test_no_node_has_room(shared: Asked, size: str, code: str, words: str) -> None:
    answer = shared.until(shared.want(f"of-{size}", size=size), code, reconciled=True)
    assert words in answer.sentence


def test_no_node_has_the_label(shared: Asked) -> None:
    ref = shared.want("elsewhere")
    shared.make(ref, lambda manifest: head_of(manifest).update(nodeSelector={"zone": "moon"}))
    answer = shared.until(ref, "node-selector")
    assert "not the labels that its pod asks for" in answer.sentence


def test_every_node_is_tainted(level_a: LevelA, shared: Asked) -> None:
    taint = {"key": "dedicated", "value": "others", "effect": "NoSchedule"}
    with nodes(level_a, {"taints": [taint]}, {"taints": None}):
        shared.until(shared.want("tainted"), "untolerated-taint", reconciled=True)


def test_every_node_is_cordoned(level_a: LevelA, shared: Asked) -> None:
    with nodes(level_a, {"unschedulable": True}, {"unschedulable": None}):
        shared.until(shared.want("cordoned"), "nodes-cordoned", reconciled=True)


def test_a_missing_claim_and_an_unbound_claim(shared: Asked) -> None:
    def claiming(manifest: Object) -> None:
        claim = {"claimName": "nothing"}
        head_of(manifest)["volumes"].append({"name": "data", "persistentVolumeClaim": claim})

    ref = shared.want("homeless")
    shared.make(ref, claiming)
    answer = shared.until(ref, "volume-missing")
    assert "PersistentVolumeClaim 'nothing' is not there" in answer.sentence
    meta = {"name": "nothing", "namespace": shared.namespace}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    shared.api.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec})
    shared.until(ref, "volume-unbound")


def test_a_spec_that_the_operator_refuses(shared: Asked) -> None:
    ref = shared.want("wrong")
    shared.make(ref, lambda manifest: manifest["spec"].update(rayVersion="2.40.0"))
    answer = shared.until(ref, "spec-refused")
    assert f"The KubeRay operator refuses cluster '{ref}': authOptions.mode is 'token' but minimum" in answer.sentence
    shared.make(ref, lambda manifest: None)
    shared.until(ref, reconciled=True)


def test_an_operator_that_is_down(level_a: LevelA, shared: Asked) -> None:
    with level_a.without("ray-operator"):
        ref = shared.want("unseen")
        answer = shared.until(ref, "operator-silent", reconciled=True, seconds=120)
        assert "does not act on cluster" in answer.sentence
        well = shared.why("clusters", "well")
        assert well.causes == [], "a cluster that serves is as wanted, whoever looks after it"
    shared.until(ref, reconciled=True, seconds=120)


def test_an_api_server_that_does_not_answer(level_a: LevelA, shared: Asked) -> None:
    ref = shared.want("cut-off")
    with level_a.without("kube-apiserver"):
        answer = shared.until(ref, "backend-unreachable")
        assert "The backend of cluster" in answer.sentence
        shared.submit("waits", "cut-off")
        assert shared.why("jobs", "waits").sentence.startswith(
            f"Job '{shared.team.name}/waits' waits for cluster '{ref}': the backend of cluster"
        )


def test_a_namespace_whose_deletion_is_stuck(own: Asked) -> None:
    ref = own.want("dev")
    own.until(ref, reconciled=True)
    metadata = {"name": "held", "namespace": own.namespace, "finalizers": ["example.com/nobody"]}
    own.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    own.api.delete("v1", "Namespace", own.namespace)
    try:
        answer = own.until(ref, "namespace-terminating", reconciled=True, only=False)
        wait_for(
            "the finalizer is named",
            lambda: "example.com/nobody" in own.why("clusters", "dev").causes[0].evidence[0].message,
            seconds=60,
        )
    finally:
        own.api.patch("v1", "ConfigMap", "held", {"metadata": {"finalizers": None}}, own.namespace)
    assert "is being deleted" in answer.sentence


def test_of_two_causes_at_once_the_heads_comes_first(own: Asked) -> None:
    tighten(own, pods="1")
    ref = own.want("dev", workers={"min": 1, "max": 1})
    own.make(ref, lambda manifest: head_of(manifest).update(nodeSelector={"zone": "moon"}))
    answer = own.until(ref, "node-selector", "namespace-quota")
    assert [cause.node for cause in answer.causes] == ["head", "worker"]
    assert answer.sentence == answer.causes[0].sentence
    full = [clue.about for clue in answer.causes[1].evidence if clue.reason == "Full"]
    assert full == ["resourcequota/tight"]


def test_a_waiting_job_has_the_causes_of_its_cluster(shared: Asked) -> None:
    ref = shared.want("for-a-job", size="huge")
    shared.until(ref, "insufficient-cpu", reconciled=True)
    shared.submit("train", "for-a-job")
    answer = shared.why("jobs", "train")
    assert [cause.code for cause in answer.causes] == ["insufficient-cpu"]
    assert answer.sentence.startswith(f"Job '{shared.team.name}/train' waits for cluster '{ref}': the head of cluster")
