"""Every cause of `why` from the message of its source, and the order of two causes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.why.catalogue import CODES
from rayplane.gateway.why.clusters import node_causes
from rayplane.gateway.why.explain import explain
from rayplane.gateway.why.facts import Facts, Verdict
from rayplane.gateway.why.rank import ranked
from rayplane.nouns.base import Metadata, Status
from rayplane.nouns.why import Cause, Explanation
from tests.unit.gateway.why.objects import NOW, ago, event, facts, pod, raycluster, ready_pod, waiting

DOCS = Path(__file__).parents[4] / "docs" / "why.md"
WHERE = "cluster 'growth/dev'"


def head(reason: str, message: str, **more: Any) -> Evidence:
    return Evidence(
        **{"source": "pod", "about": "pod/dev-head", "node": "head", **more}, reason=reason, message=message
    )


def refused(message: str) -> Evidence:
    return head("FailedToCreateHeadPod", f"Failed to create head Pod growth/dev-head, {message}", source="event")


NODES = "0/{} nodes are available: {}. preemption: 0/1 nodes are available: 1 No preemption victims found."

TOLD: list[tuple[Evidence, str, str]] = [
    (head("Unschedulable", NODES.format(1, "1 Insufficient cpu")), "insufficient-cpu", "of 1 node 1 has too few"),
    (head("Unschedulable", NODES.format(2, "2 Insufficient memory")), "insufficient-memory", "too little memory"),
    (head("Unschedulable", NODES.format(1, "1 Insufficient nvidia.com/gpu")), "insufficient-gpu", "too few GPUs"),
    (head("Unschedulable", "0/2 nodes are available: 2 Insufficient cpu. not found"), "insufficient-cpu", "2 have too"),
    (head("Unschedulable", NODES.format(1, "1 Too many pods")), "insufficient-other", "no room left"),
    (head("Unschedulable", NODES.format(1, "1 node(s) had untolerated taint(s)")), "untolerated-taint", "a taint"),
    (
        head("Unschedulable", NODES.format(1, "1 node(s) didn't match Pod's node affinity/selector")),
        "node-selector",
        "not the labels that its pod asks for",
    ),
    (head("Unschedulable", NODES.format(1, "1 node(s) were unschedulable")), "nodes-cordoned", "been cordoned"),
    (head("Unschedulable", 'persistentvolumeclaim "data" not found'), "volume-missing", "'data' is not there"),
    (
        head("Unschedulable", NODES.format(1, "pod has unbound immediate PersistentVolumeClaims")),
        "volume-unbound",
        "not bound to a volume",
    ),
    (head("Unschedulable", "no nodes available to schedule pods"), "no-nodes", "none at all"),
    (head("Unschedulable", "something new"), "unschedulable", "something new"),
    (head("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates"), "kueue-pending", "gate"),
    (
        refused("exceeded quota: team, requested: limits.cpu=2, used: limits.cpu=7, limited: limits.cpu=8"),
        "namespace-quota",
        "asks for limits.cpu=2, limits.cpu=7 is used of limits.cpu=8",
    ),
    (refused('pods "x" is forbidden: failed quota: team: must specify limits.cpu'), "namespace-quota", "must specify"),
    (
        refused('pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi'),
        "limit-range",
        "maximum memory usage per Container is 1Gi, but limit is 2Gi",
    ),
    (
        refused('pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged (container ...)'),
        "pod-security",
        "Pod Security 'restricted:latest'",
    ),
    (
        refused('pods "x" is forbidden: error looking up service account growth/ray: serviceaccount "ray" not found'),
        "service-account-missing",
        "'ray' is not there",
    ),
    (refused('admission webhook "policy.example" denied the request: no'), "webhook-denied", "'policy.example': no"),
    (
        refused("unable to create new content in namespace growth because it is being terminated"),
        "namespace-terminating",
        "is being deleted",
    ),
    (refused("etcdserver: request is too large"), "pod-refused", "too large"),
    (
        Evidence("event", "raycluster/dev", "FailedToCreateService", "Failed creating service growth/dev-head-svc, "
                 "exceeded quota: q, requested: services=1, used: services=5, limited: services=5"),
        "namespace-quota",
        "asks for services=1, services=5 is used of services=5",
    ),
    *(
        (Evidence("event", "raycluster/dev", reason, "it is forbidden: no."), "pod-refused", "can't be made: it is")
        for reason in ("FailedToCreateServiceAccount", "FailedToCreateRole", "FailedToCreateRoleBinding",
                       "FailedToCreateIngress", "FailedToCreateRoute", "FailedToCreateRayCluster")
    ),
    (
        Evidence("operator", "raycluster/dev", "InvalidRayClusterSpec", "The RayCluster spec is invalid a/b: no"),
        "spec-refused",
        "The KubeRay operator refuses cluster 'growth/dev': no.",
    ),
    (Evidence("operator", "raycluster/dev", "Silent", "written 40 s ago"), "operator-silent", "does not act"),
    (Evidence("cluster", "namespace/growth", "NamespaceTerminating", "30 s."), "namespace-terminating", "takes"),
    (
        Evidence("quota", "workload/w", "Pending", "couldn't assign flavors: insufficient unused quota for cpu"),
        "kueue-pending",
        "holds cluster 'growth/dev' in its queue",
    ),
    (Evidence("quota", "workload/w", "Inadmissible", "LocalQueue team doesn't exist"), "kueue-queue", "can't admit"),
    (Evidence("event", "raycluster/dev", "AutoscalerServiceAccountNotFound", "sa"), "service-account-missing", "sa"),
    (
        head("ErrImagePull", "container 'ray-head': rpc error: code = NotFound desc = failed to pull and unpack image "
             '"r/x:1": failed to resolve image: r/x:1: not found'),
        "image-not-found",
        "its image 'r/x:1' is not there",
    ),
    (
        head("ImagePullBackOff", 'Failed to pull image "r/x:1": pull access denied, authorization failed'),
        "image-unauthorized",
        "refuses to give out its image 'r/x:1'",
    ),
    (
        head("ImagePullBackOff", 'Failed to pull image "r/x:1": do request: Head "u": dial tcp: no such host'),
        "registry-unreachable",
        "registry of its image 'r/x:1' does not answer",
    ),
    (head("ErrImagePull", 'Failed to pull image "r/x:1": blob is corrupt'), "image-pull", "blob is corrupt"),
    (
        head("ErrImagePull", 'failed to pull and unpack image "r/x:20240103": failed to resolve reference '
             '"r/x:20240103": r/x:20240103: not found'),
        "image-not-found",
        "its image 'r/x:20240103' is not there",
    ),
    (
        head("ErrImagePull", 'Failed to pull image "forbidden/ray@sha256:ab4010ff": docker.io/forbidden/ray@sha256:'
             "ab4010ff: not found"),
        "image-not-found",
        "is not there",
    ),
    (head("ErrImagePull", 'Failed to pull image "ray:403": ray:403: not found'), "image-not-found", "is not there"),
    (
        head("ErrImagePull", 'Failed to pull image "r/x:1": unexpected status code https://r/v2/x/blobs/sha256:9401: '
             "500 Internal Server Error"),
        "image-pull",
        "500 Internal Server Error",
    ),
    (
        head("ErrImagePull", 'Failed to pull image "r/x:1": unexpected status from HEAD request to '
             "https://r/v2/x/manifests/1: 403 Forbidden"),
        "image-unauthorized",
        "refuses to give out its image 'r/x:1'",
    ),
    (
        head("ErrImagePull", 'Failed to pull image "r/x:1": failed to authorize: unexpected status code 401'),
        "image-unauthorized",
        "refuses to give out its image 'r/x:1'",
    ),
    (head("InvalidImageName", 'Failed to apply default image tag "X:/": invalid'), "image-name-invalid", "be read"),
    (
        head("CreateContainerConfigError", "container 'ray-head': secret \"token\" not found"),
        "config-missing",
        "its Secret 'token' is not there",
    ),
    (
        head("CreateContainerConfigError", "couldn't find key token in Secret growth/dev"),
        "config-missing",
        "its Secret 'growth/dev' has no key 'token'",
    ),
    (
        head("FailedMount", 'MountVolume.SetUp failed for volume "c" : configmap "settings" not found'),
        "config-missing",
        "its ConfigMap 'settings' is not there",
    ),
    (head("FailedMount", "timed out waiting for the condition"), "volume-mount", "timed out"),
    (head("FailedCreatePodSandBox", "failed to set up sandbox network"), "pod-sandbox", "sandbox network"),
    (head("RunContainerError", 'exec: "nothing": not found in $PATH'), "container-start", "not found in $PATH"),
    (
        head("CrashLoopBackOff", "container 'ray-head' ended with exit code 3: no such port", count=4),
        "crash-loop",
        "ends with exit code 3 again and again (4 times). Its last words: no such port.",
    ),
    (
        head("CrashLoopBackOff", "container 'ray-head' ended with exit code 1: " + "noise\n" * 90 + "Boom: it broke\n"),
        "crash-loop",
        "noise | Boom: it broke.",
    ),
    (head("Terminated", "container 'ray-head' ended with exit code 137"), "crash-loop", "was killed (exit code 137)"),
    (
        head("DeletedHeadPod", "Deleted head Pod; Ray container terminated status: "
             "&ContainerStateTerminated{ExitCode:2,Signal:0,Reason:Error,Message:boom,StartedAt:x,}"),
        "crash-loop",
        "exit code 2. Its last words: boom.",
    ),
    (
        head("OOMKilled", "container 'ray-head' ended with exit code 137", count=2),
        "out-of-memory",
        "ran out of memory and was killed",
    ),
    (head("Evicted", "The node was low on resource: ephemeral-storage."), "evicted", "ephemeral-storage"),
    (head("NodeLost", "Node n1 is gone"), "node-lost", "does not answer"),
    (head("Unhealthy", "Readiness probe failed: connection refused"), "probe-failing", "connection refused"),
    (head("Terminating", "It has been going for 90 s."), "stuck-terminating", "does not go"),
    (Evidence("autoscaler", "raycluster/dev", "Infeasible", "{'CPU': 64}"), "autoscaler-infeasible", "large enough"),
    (Evidence("autoscaler", "raycluster/dev", "AtMaxWorkers", "2 of 2"), "autoscaler-at-max", "may have"),
    (Evidence("autoscaler", "raycluster/dev", "WorkersPending", "1 of 2"), "workers-pending", "not there yet"),
]  # fmt: skip


@pytest.mark.parametrize(("fact", "code", "words"), TOLD, ids=[f"{code}-{i}" for i, (_, code, _) in enumerate(TOLD)])
def test_evidence_of_the_backend_has_its_cause(fact: Evidence, code: str, words: str) -> None:
    (cause,) = node_causes([fact], WHERE)
    assert cause.code == code
    assert words in cause.sentence
    assert WHERE in cause.sentence[0].lower() + cause.sentence[1:]
    assert cause.sentence.endswith(".")
    assert cause.remedy.endswith((".", "pvc", "workload"))
    assert (cause.node, cause.evidence[0].reason) == (fact.node, fact.reason)


def cluster(*, spec: dict[str, Any] | None = None, phase: str = "Starting", **more: Any) -> AnyObject:
    status = Status(phase=phase, observed_generation=1)
    if condition := more.pop("condition", None):
        status.set_condition(*condition, 1)
    fields: dict[str, Any] = status.model_dump(mode="json")
    if reason := more.pop("suspension", None):
        fields["suspension"] = {"reason": reason, "message": "for 30 m", "at": ago(9)}
    meta = {"name": "dev", "team": "growth", "uid": "u", "generation": 1, "created_at": NOW, "updated_at": NOW}
    return AnyObject(
        kind=more.pop("kind", "Cluster"),
        metadata=Metadata(**{**meta, **more}),
        spec_data=spec or {},
        status_data=fields,
    )


STARTING = ("Ready", False, "Starting", "The Ray head is starting.")
PLATFORM: list[tuple[Facts, str, str]] = [
    (Facts(cluster(condition=STARTING), NOW), "starting", "The Ray head is starting."),
    (Facts(cluster(spec={"suspended": True}, phase="Suspended"), NOW), "suspended", "suspended on request"),
    (Facts(cluster(phase="Suspended", suspension="Idle"), NOW), "suspended-idle", "because nothing used it (for 30 m)"),
    (Facts(cluster(phase="Ready", suspension="Lifetime"), NOW), "lifetime-over", "has reached its maximum lifetime"),
    (Facts(cluster(condition=STARTING), NOW, silence="the API server is away."), "backend-unreachable", "is away"),
    (Facts(cluster(), NOW, verdicts=[Verdict("preflight", "no disk.")]), "preflight", "no disk."),
    (Facts(cluster(), NOW, verdicts=[Verdict("quota", "cpu is full.", likely=True)]), "quota", "cpu is full."),
    (Facts(cluster(), NOW, verdicts=[Verdict("size-gone", "no size 'x'.")]), "size-gone", "no size 'x'."),
    (
        Facts(cluster(condition=("Ready", False, "TeamNotReady", "Team 'growth' is being onboarded.")), NOW),
        "team-not-onboarded",
        "is being onboarded",
    ),
    (
        Facts(cluster(condition=("Reconciled", False, "Unavailable", "no MLflow.")), NOW),
        "backend-unreachable",
        "no MLflow",
    ),
    (Facts(cluster(condition=("Reconciled", False, "KeyError", "KeyError: x")), NOW), "reconcile-error", "KeyError"),
    (Facts(cluster(condition=("Ready", False, "HeadDied", "It ended: boom.")), NOW), "head-died", "boom"),
    (Facts(cluster(condition=("Ready", False, "PortTaken", "No block is free.")), NOW), "port-taken", "No block"),
    (
        Facts(cluster(condition=("Ready", False, "OSError", "[Errno 28] No space left on device")), NOW),
        "disk-full",
        "No space left",
    ),
    (Facts(cluster(condition=("Ready", False, "TokenRefused", "refused.")), NOW), "token-refused", "refused"),
    (Facts(cluster(condition=("Ready", False, "AddressRefused", "not it.")), NOW), "address-refused", "not it"),
    (Facts(cluster(condition=("Ready", False, "Unreachable", "no route.")), NOW), "unreachable", "no route"),
    (Facts(cluster(condition=("Ready", False, "NotAnswering", "runs.")), NOW), "head-not-answering", "runs"),
    (Facts(cluster(condition=("Ready", False, "Unsupported", "can't.")), NOW), "unsupported", "can't"),
    (Facts(cluster(condition=("Ready", False, "SomethingNew", "odd.")), NOW), "other", "odd"),
    (Facts(cluster(deleted_at=NOW), NOW), "deleting", "is being deleted"),
    (Facts(cluster(generation=2, updated_at=ago(60)), NOW), "not-looked-at", "60 s ago"),
    (
        Facts(
            cluster(
                spec={"suspended": False},
                phase="Suspended",
                condition=("Ready", False, "Suspended", "Suspended on request."),
                generation=2,
                updated_at=ago(60),
            ),
            NOW,
        ),
        "not-looked-at",
        "No gateway has looked at cluster 'growth/dev'",
    ),
    (
        Facts(cluster(phase="Suspended", condition=("Reconciled", False, "KeyError", "x"), generation=2), NOW),
        "reconcile-error",
        "The last look at cluster 'growth/dev' failed",
    ),
]


@pytest.mark.parametrize(("facts", "code", "words"), PLATFORM, ids=[code for _, code, _ in PLATFORM])
def test_the_platforms_own_facts_have_their_cause(facts: Facts, code: str, words: str) -> None:
    answer = explain(facts)
    assert [cause.code for cause in answer.causes] == [code]
    assert words in answer.sentence
    assert "'growth/dev'" in answer.sentence


def test_a_healthy_cluster_has_no_cause() -> None:
    ready = cluster(phase="Ready", condition=("Ready", True, "Ready", ""))
    answer = explain(Facts(ready, NOW))
    assert answer == Explanation(
        kind="Cluster", team="growth", name="dev", phase="Ready", sentence="Cluster 'growth/dev' is as wanted."
    )
    past = [head("Unhealthy", "Readiness probe failed"), Evidence("quota", "resourcequota/t", "Full", "cpu 4 of 4")]
    assert explain(Facts(ready, NOW, evidence=past)).causes == []


def test_a_ready_cluster_still_has_the_causes_of_its_workers() -> None:
    ready = cluster(phase="Ready", condition=("Ready", True, "Ready", ""))
    lacking = head("Unschedulable", NODES.format(1, "1 Insufficient cpu"), node="worker", about="pod/w")
    (cause,) = explain(Facts(ready, NOW, evidence=[lacking])).causes
    assert (cause.code, cause.sentence[:21]) == ("insufficient-cpu", "A worker of cluster '")


def test_a_suspended_cluster_has_no_other_cause() -> None:
    facts = Facts(cluster(spec={"suspended": True}, phase="Suspended"), NOW, evidence=[refused("exceeded quota")])
    assert [cause.code for cause in explain(facts).causes] == ["suspended"]


def test_a_cluster_to_suspend_that_no_gateway_looks_at_says_so() -> None:
    wanted = cluster(
        spec={"suspended": True},
        phase="Ready",
        condition=("Ready", True, "Ready", ""),
        generation=2,
        updated_at=ago(60),
    )
    assert codes(explain(Facts(wanted, NOW)).causes) == ["suspended", "not-looked-at"]


def test_a_cluster_that_does_not_suspend_says_first_why() -> None:
    going = cluster(spec={"suspended": True}, phase="Suspending")
    down = Evidence("operator", "lease/ray-operator-leader", "Down", "No operator has renewed its lease for 900 s.")
    silent = Evidence("operator", "raycluster/dev", "Silent", "the operator has not suspended it.")
    stuck, refusal = head("Terminating", "It has been going for 900 s."), refused("exceeded quota")
    for evidence, expected_codes in (
        ([down, refusal], ["operator-silent", "suspended"]),
        ([silent], ["operator-silent", "suspended"]),
        ([silent, stuck], ["stuck-terminating", "operator-silent", "suspended"]),
        ([refusal], ["suspended"]),
    ):
        assert codes(explain(Facts(going, NOW, evidence=evidence)).causes) == expected_codes
    assert codes(explain(Facts(cluster(spec={"suspended": True}, phase="Suspended"), NOW, evidence=[down])).causes) == [
        "suspended"
    ]


def codes(causes: list[Cause]) -> list[str]:
    return [cause.code for cause in causes]


def test_a_cause_of_the_head_comes_before_one_of_the_workers() -> None:
    worker = refused("exceeded quota: q, requested: a, used: b, limited: c")
    worker = Evidence("event", worker.about, "FailedToCreateWorkerPod", worker.message, node="worker")
    causes = ranked(node_causes([worker, head("ErrImagePull", "x: not found")], WHERE))
    assert codes(causes) == ["image-not-found", "namespace-quota"]


def test_a_certain_cause_comes_before_a_likely_one() -> None:
    silent = Evidence("operator", "raycluster/dev", "Silent", "it has made no head.")
    causes = explain(Facts(cluster(), NOW, evidence=[silent], verdicts=[Verdict("preflight", "no disk.")]))
    assert codes(causes.causes) == ["preflight", "operator-silent"]
    assert causes.sentence == causes.causes[0].sentence


def test_an_unrecognised_refusal_comes_before_a_likely_cause() -> None:
    refusal = refused('pods "dev-head" is forbidden: no PriorityClass with name high was found')
    causes = explain(Facts(cluster(), NOW, evidence=[refusal], verdicts=[Verdict("quota", "cpu is full", likely=True)]))
    assert codes(causes.causes) == ["pod-refused", "quota"]
    known = refused("exceeded quota: q, requested: a, used: b, limited: c")
    assert codes(ranked(node_causes([refusal, known], WHERE))) == ["namespace-quota"]
    of_worker = replace(known, reason="FailedToCreateWorkerPod", node="worker")
    assert codes(ranked(node_causes([refusal, of_worker], WHERE))) == ["pod-refused", "namespace-quota"]


def test_the_more_fundamental_cause_comes_first() -> None:
    unscheduled = head("Unschedulable", NODES.format(1, "1 Insufficient cpu"), about="pod/a")
    pulling = head("ErrImagePull", "x: not found", about="pod/b")
    assert codes(ranked(node_causes([pulling, unscheduled], WHERE))) == ["insufficient-cpu", "image-not-found"]


def test_the_same_cause_of_several_pods_is_merged_with_all_its_evidence() -> None:
    pods = [head("ErrImagePull", "x: not found", about=f"pod/w{n}", node="worker") for n in range(3)]
    (cause,) = ranked(node_causes(pods, WHERE))
    assert [clue.about for clue in cause.evidence] == ["pod/w0", "pod/w1", "pod/w2"]


def test_a_specific_cause_replaces_one_that_only_says_starting() -> None:
    facts = Facts(cluster(condition=STARTING), NOW, evidence=[head("ErrImagePull", "x: not found")])
    assert codes(explain(facts).causes) == ["image-not-found"]


def test_a_full_quota_is_a_clue_of_the_refusal_and_no_cause_by_itself() -> None:
    full = Evidence("quota", "resourcequota/q", "Full", "limits.cpu 8 of 8")
    assert node_causes([full], WHERE) == []
    (cause,) = node_causes([refused("exceeded quota: q, requested: a, used: b, limited: c"), full], WHERE)
    assert [clue.about for clue in cause.evidence] == ["pod/dev-head", "resourcequota/q"]


def test_two_reasons_of_the_scheduler_are_both_named_and_ranked_by_the_nodes_that_could_take_the_pod() -> None:
    said = NODES.format(5, "3 node(s) had untolerated taint(s), 2 Insufficient cpu")
    (cause,) = node_causes([head("Unschedulable", said)], WHERE)
    assert cause.code == "insufficient-cpu"
    assert "of 5 nodes 3 have a taint that it does not tolerate, 2 have too few cores free" in cause.sentence


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("2 node(s) were unschedulable, 1 Insufficient memory", "insufficient-memory"),
        (
            "2 node(s) didn't match Pod's node affinity/selector, 1 node(s) had no available volume zone",
            "volume-unbound",
        ),
        ("1 Insufficient cpu, 2 Insufficient memory", "insufficient-memory"),
        ("1 node(s) were unschedulable, 2 node(s) had untolerated taint(s)", "untolerated-taint"),
    ],
)
def test_among_the_schedulers_reasons_of_one_kind_the_more_frequent_one_counts(said: str, code: str) -> None:
    (cause,) = node_causes([head("Unschedulable", NODES.format(3, said))], WHERE)
    assert cause.code == code


def test_a_waiting_job_says_why_its_cluster_is_not_ready() -> None:
    waits = ("Scheduled", False, "ClusterNotReady", "Cluster 'growth/dev' is Starting.")
    job = cluster(kind="Job", name="train", phase="Pending", condition=waits, spec={"cluster": "dev"})
    holding = ranked(node_causes([head("ErrImagePull", "x: not found")], WHERE))
    answer = explain(Facts(job, NOW, depends=holding, depends_on=WHERE))
    assert codes(answer.causes) == ["image-not-found"]
    assert answer.sentence.startswith("Job 'growth/train' waits for cluster 'growth/dev': the head of cluster")
    assert answer.causes[0].remedy == holding[0].remedy
    assert codes(explain(Facts(job, NOW)).causes) == ["waiting"]


def test_a_failed_job_has_its_exit_code_and_its_last_output() -> None:
    job = cluster(kind="Job", name="train", phase="Failed", spec={"cluster": "dev"})
    job.status_data.update(exit_code=3, message="The entrypoint failed.")
    (cause,) = explain(Facts(job, NOW, last_words="ValueError: no rows")).causes
    assert (cause.code, cause.sentence) == (
        "job-failed",
        "Job 'growth/train' failed with exit code 3: The entrypoint failed.",
    )
    assert cause.evidence[-1].message == "ValueError: no rows"


@pytest.mark.parametrize("phase", ["Succeeded", "Stopped"])
def test_work_that_ended_as_wanted_has_no_cause(phase: str) -> None:
    assert explain(Facts(cluster(kind="Job", name="train", phase=phase), NOW)).causes == []


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("NoModel", "model-missing"),
        ("Refused", "serve-refused"),
        ("DEPLOY_FAILED", "deploy-failed"),
        ("StartupTimeout", "startup-timeout"),
        ("ClusterGone", "cluster-missing"),
        ("Deploying", "deploying"),
    ],
)
def test_a_services_condition_has_its_cause(reason: str, code: str) -> None:
    service = cluster(kind="Service", name="delay", phase="Failed", condition=("Ready", False, reason, "It says."))
    answer = explain(Facts(service, NOW))
    assert (codes(answer.causes), answer.sentence) == ([code], "Service 'growth/delay': It says.")


def test_from_a_clusters_objects_to_the_sentence() -> None:
    pods = [pod(containers=[waiting("ErrImagePull", 'Failed to pull image "r/x:1": not found')])]
    answer = explain(Facts(cluster(condition=STARTING), NOW, evidence=facts(raycluster(), pods)))
    assert answer.sentence == "The head of cluster 'growth/dev' can't start: its image 'r/x:1' is not there."
    probe = event(ready_pod(), "Unhealthy", "Readiness probe failed: x", field="spec.containers{ray-head}")
    well = Facts(cluster(phase="Ready"), NOW, evidence=facts(raycluster(), [ready_pod()], [probe]))
    assert explain(well).causes == []


def test_the_documentation_explains_every_cause_and_no_other() -> None:
    documented = re.findall(r"^\| `([a-z-]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert documented == list(CODES)
