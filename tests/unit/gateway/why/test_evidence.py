"""Evidence is returned while it holds, without duplicates, the newest first."""

from __future__ import annotations

import pytest

from tests.unit.gateway.why.objects import ago, ended, event, facts, pod, raycluster, ready_pod, waiting

INVALID = "The RayCluster spec is invalid alpha/dev: worker group has min above max"
QUOTA = 'Failed to create head Pod alpha/dev-head, pods "dev-head" is forbidden: exceeded quota: team, requested: x'


def reasons(evidence: object) -> list[str]:
    return [fact.reason for fact in evidence]  # type: ignore[attr-defined]


def test_a_healthy_cluster_has_no_evidence() -> None:
    ready = raycluster(status={"state": "ready", "conditions": [{"type": "HeadPodReady", "status": "True"}]})
    head = ready_pod()
    was = [event(head, "Unhealthy", "Readiness probe failed: refused", at=20, field="spec.containers{ray-head}")]
    was += [event(head, "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.", at=25)]
    was += [event(head, "FailedMount", 'secret "t" not found', at=24)]
    assert facts(ready, [head], was) == []


def test_a_cluster_that_starts_normally_has_no_evidence() -> None:
    head = pod(containers=[waiting("ContainerCreating")], age=3)
    worker = pod("dev-w", kind="worker", age=3, containers=[waiting("PodInitializing", name="ray-worker")])
    worker["status"]["initContainerStatuses"] = [
        {"name": "wait-gcs-ready", "ready": False, "restartCount": 0, "state": {"running": {"startedAt": ago(2)}}}
    ]
    assert facts(raycluster(age=4), [head, worker]) == []


def test_events_of_a_pod_that_is_gone_are_dropped() -> None:
    gone = pod("dev-head-old")
    assert facts(raycluster(), [ready_pod()], [event(gone, "FailedMount", 'secret "t" not found')]) == []


def test_events_of_an_earlier_cluster_of_the_same_name_are_dropped() -> None:
    before = raycluster()
    before["metadata"]["uid"] = "rc-0"
    now = raycluster(age=5, status={})
    assert facts(now, [], [event(before, "InvalidRayClusterSpec", INVALID)]) == []


def test_a_refusal_that_a_later_pod_disproves_is_dropped() -> None:
    cluster, head = raycluster(), pod(containers=[waiting("ContainerCreating")], age=10)
    assert facts(cluster, [head], [event(cluster, "FailedToCreateHeadPod", QUOTA, at=20)]) == []
    (fact,) = facts(cluster, [], [event(cluster, "FailedToCreateHeadPod", QUOTA, at=20)])
    assert (fact.source, fact.reason, fact.node) == ("event", "FailedToCreateHeadPod", "head")


def test_a_failure_to_make_what_precedes_pods_is_evidence_until_a_pod_disproves_it() -> None:
    cluster = raycluster(age=60)
    said = [event(cluster, "FailedToCreateService", "Failed creating service alpha/dev-head-svc", at=40)]
    assert reasons(facts(cluster, [], said)) == ["FailedToCreateService"]
    assert facts(cluster, [pod(containers=[waiting("ContainerCreating")], age=39)], said) == []
    owner = {"kind": "RayJob", "metadata": {"name": "j", "uid": "rj-1"}, "status": {"jobDeploymentStatus": "New"}}
    said = [event(owner, "FailedToCreateRayCluster", "Failed to create RayCluster alpha/j", at=61)]
    assert reasons(facts(None, [], said, owner=owner)) == ["FailedToCreateRayCluster"]
    assert facts(cluster, [ready_pod()], said, owner=owner) == []


def test_only_a_reason_for_missing_pods_excuses_a_silent_operator() -> None:
    cluster = raycluster(age=300)
    said = [event(cluster, "FailedToDeletePod", "Failed to delete Pod alpha/dev-w", at=100)]
    assert set(reasons(facts(cluster, [], said))) == {"FailedToDeletePod", "Silent"}
    said = [event(cluster, "FailedToCreateRole", "Failed creating role alpha/dev", at=100)]
    assert reasons(facts(cluster, [], said)) == ["FailedToCreateRole"]


def test_a_node_that_is_back_is_no_evidence() -> None:
    away = ready_pod(age=7200)
    away["status"]["conditions"] = [{"type": "Ready", "status": "True", "lastTransitionTime": ago(3000)}]
    past = [event(away, "NodeNotReady", "Node is not ready", at=3300)]
    assert facts(raycluster(age=7200), [away], past) == []
    assert reasons(facts(raycluster(age=7200), [away], [event(away, "Preempted", "Preempted by x", at=5)])) == [
        "Preempted"
    ]
    away["status"]["conditions"][0]["status"] = "False"
    assert reasons(facts(raycluster(age=7200), [away], past)) == ["NodeNotReady"]


def test_a_failed_mount_is_no_evidence_once_the_image_is_pulled() -> None:
    head = pod(containers=[waiting("ContainerCreating")], age=400)
    failed = event(head, "FailedMount", "failed to sync secret cache: timed out", at=395)
    assert reasons(facts(raycluster(), [head], [failed])) == ["FailedMount"]
    for reason in ("Pulling", "Pulled", "Created"):
        assert facts(raycluster(), [head], [failed, event(head, reason, "x", at=390, kind="Normal")]) == []
    later = event(head, "FailedCreatePodSandBox", "failed to set up sandbox network", at=300)
    pulling = event(head, "Pulling", "x", at=390, kind="Normal")
    assert reasons(facts(raycluster(), [head], [failed, pulling, later])) == ["FailedCreatePodSandBox"]


def test_of_a_volume_only_the_last_failed_mount_is_evidence() -> None:
    head = pod(containers=[waiting("ContainerCreating")], age=400)
    failed = 'MountVolume.SetUp failed for volume "{}" : {}'
    slow = event(head, "FailedMount", failed.format("secrets", "failed to sync secret cache: timed out"), at=395)
    lacking = event(head, "FailedMount", failed.format("secrets", 'secret "t" not found'), at=300)
    other = event(head, "FailedMount", failed.format("root", "timed out"), at=390)
    messages = [fact.message for fact in facts(raycluster(), [head], [slow, other, lacking])]
    assert messages == [failed.format("secrets", 'secret "t" not found'), failed.format("root", "timed out")]


@pytest.mark.parametrize("gpu", ["nvidia.com/gpu", "amd.com/gpu", "aliyun.com/gpu", "nvidia.com/mig-1g.5gb"])
def test_gpus_of_any_vendor_count(gpu: str) -> None:
    limits = {"cpu": "2", "memory": "4Gi", gpu: "1"}
    group = {"replicas": 0, "maxReplicas": 1, "template": {"spec": {"containers": [{"resources": {"limits": limits}}]}}}
    cluster = raycluster(headGroupSpec=group, workerGroupSpecs=[group])
    one, two = "{'GPU': 1.0}: 1+ pending tasks/actors", "{'GPU': 2.0}: 1+ pending tasks/actors"
    assert reasons(facts(cluster, [ready_pod()], demands=[one])) == ["WorkersPending"]
    assert reasons(facts(cluster, [ready_pod()], demands=[two])) == ["Infeasible"]


def test_an_old_event_is_dropped() -> None:
    cluster = raycluster(age=7200)
    assert reasons(facts(cluster, [], [event(cluster, "FailedToCreateHeadPod", QUOTA, at=3000)])) == ["Silent"]


def test_a_refusal_of_the_operator_holds_until_the_spec_changes() -> None:
    cluster = raycluster(status={})
    said = [event(cluster, "InvalidRayClusterSpec", INVALID, at=40)]
    (fact,) = facts(cluster, [], said)
    assert (fact.source, fact.about, fact.reason) == ("operator", "raycluster/dev", "InvalidRayClusterSpec")
    acted = raycluster(
        status={"conditions": [{"type": "HeadPodReady", "status": "True", "lastTransitionTime": ago(40)}]}
    )
    assert facts(acted, [ready_pod()], said) == [], "the operator acts on it again"
    cluster["metadata"]["managedFields"][0]["time"] = ago(10)
    assert facts(cluster, [], said) == []


def test_a_silent_operator_is_evidence_after_a_while_and_only_if_it_should_have_acted() -> None:
    assert facts(raycluster(age=5, status={})) == []
    (fact,) = facts(raycluster(age=60, status={}))
    assert (fact.source, fact.reason) == ("operator", "Silent")
    assert "60 s ago" in fact.message
    suspended = raycluster(suspend=True, status={"conditions": [{"type": "RayClusterSuspended", "status": "True"}]})
    assert facts(suspended) == []
    assert reasons(facts(raycluster(suspend=True), [ready_pod()])) == ["Silent"]


def test_the_condition_of_a_pod_that_can_not_be_made_is_evidence_about_its_node() -> None:
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreateWorkerPod",
        "message": "exceeded quota",
        "lastTransitionTime": ago(9),
    }
    (fact,) = facts(raycluster(status={"state": "ready", "conditions": [condition]}), [ready_pod()])
    assert (fact.source, fact.reason, fact.node) == ("cluster", "FailedCreateWorkerPod", "worker")


def test_a_waiting_container_has_the_most_specific_message() -> None:
    head = pod(containers=[waiting("ImagePullBackOff", 'Back-off pulling image "x"')])
    said = [
        event(head, "Failed", "Error: ErrImagePull", field="spec.containers{ray-head}"),
        event(head, "Failed", 'Failed to pull image "x": x: not found', field="spec.containers{ray-head}", count=4),
    ]
    (fact,) = facts(raycluster(), [head], said)
    assert fact.reason == "ImagePullBackOff"
    assert fact.message == "container 'ray-head': Failed to pull image \"x\": x: not found"
    assert fact.count == 4


def test_a_crash_has_its_exit_code_its_last_output_and_its_count() -> None:
    looping = waiting("CrashLoopBackOff", "back-off 40s", lastState=ended(3, message="no such port"), restartCount=4)
    (fact,) = facts(raycluster(), [pod(containers=[looping])])
    assert (fact.reason, fact.count) == ("CrashLoopBackOff", 4)
    assert fact.message == "container 'ray-head' ended with exit code 3: no such port"


def test_a_container_that_has_run_again_for_long_is_no_evidence() -> None:
    again = {"name": "ray-head", "ready": False, "restartCount": 1, "state": {"running": {"startedAt": ago(800)}}}
    again["lastState"] = ended(1, at=801)
    assert facts(raycluster(), [pod(phase="Running", containers=[again])]) == []


def test_a_kill_for_memory_is_evidence_of_oomkilled() -> None:
    killed = waiting("CrashLoopBackOff", lastState=ended(137, "OOMKilled"), restartCount=2)
    assert reasons(facts(raycluster(), [pod(containers=[killed])])) == ["OOMKilled"]


def test_the_operators_event_of_a_head_that_ended_counts_while_no_head_is_ready() -> None:
    cluster = raycluster()
    note = (
        "Deleted head Pod alpha/dev-head; Pod status: Failed; Pod restart policy: Never; Ray container terminated "
        "status: &ContainerStateTerminated{ExitCode:2,Signal:0,Reason:Error,Message:boom,StartedAt:x,}"
    )
    said = [event(cluster, "DeletedHeadPod", note, kind="Normal")]
    assert reasons(facts(cluster, [pod(containers=[waiting("ContainerCreating")])], said)) == ["DeletedHeadPod"]
    assert facts(cluster, [ready_pod()], said) == []


def test_the_operators_event_of_a_worker_that_ended_counts_while_one_is_wanted() -> None:
    note = "Deleted worker Pod alpha/w; Ray container terminated status: &ContainerStateTerminated{ExitCode:1,}"
    for group, expected in (
        ({"replicas": 0}, []),
        ({"replicas": 1, "suspend": True}, []),
        ({"replicas": 1}, ["DeletedWorkerPod"]),
        ({"replicas": 0, "minReplicas": 1}, ["DeletedWorkerPod"]),
    ):
        cluster = raycluster(age=3600, workerGroupSpecs=[{"maxReplicas": 4, **group}])
        said = [event(cluster, "DeletedWorkerPod", note, at=840, kind="Normal")]
        assert [r for r in reasons(facts(cluster, [ready_pod(age=5)], said)) if r != "WorkersPending"] == expected


def test_a_full_quota_and_a_pending_workload_are_evidence() -> None:
    quota = {"metadata": {"name": "team"}, "status": {"hard": {"cpu": "4", "pods": "9"}, "used": {"cpu": "4"}}}
    workload = {
        "metadata": {"name": "raycluster-dev", "creationTimestamp": ago(40)},
        "spec": {"queueName": "team"},
        "status": {
            "conditions": [{"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "full"}]
        },
    }
    evidence = facts(raycluster(), [ready_pod()], quotas=[quota], workloads=[workload])
    assert {(f.source, f.about, f.reason, f.message) for f in evidence} == {
        ("quota", "resourcequota/team", "Full", "cpu 4 of 4"),
        ("quota", "workload/raycluster-dev", "Pending", "full"),
    }


def test_a_slow_deletion_is_evidence() -> None:
    cluster = raycluster()
    cluster["metadata"] |= {"deletionTimestamp": ago(10), "finalizers": ["ray.io/gcs-ft-redis-cleanup-finalizer"]}
    assert facts(cluster, [ready_pod()]) == []
    cluster["metadata"]["deletionTimestamp"] = ago(90)
    (fact,) = facts(cluster, [ready_pod()])
    assert "ray.io/gcs-ft-redis-cleanup-finalizer" in fact.message
    space = {"metadata": {"name": "alpha", "deletionTimestamp": ago(30)}, "status": {"phase": "Terminating"}}
    assert reasons(facts(None, namespace=space)) == ["NamespaceTerminating"]


def test_the_autoscalers_demand_is_compared_with_the_clusters_maximum() -> None:
    group = {
        "replicas": 2,
        "maxReplicas": 2,
        "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "2", "memory": "4Gi"}}}]}},
    }
    head = {"rayStartParams": {"num-cpus": "0"}, "template": group["template"]}
    pods = [ready_pod(), ready_pod("w1", "worker"), ready_pod("w2", "worker")]
    cluster = raycluster(
        headGroupSpec=head, workerGroupSpecs=[group], status={"state": "ready", "conditions": [{"type": "x"}]}
    )
    small, large = "{'CPU': 1.0}: 5+ pending tasks/actors", "{'CPU': 64.0}: 1+ pending tasks/actors"
    assert reasons(facts(cluster, pods)) == []
    assert reasons(facts(cluster, pods, demands=[small])) == ["AtMaxWorkers"]
    assert reasons(facts(cluster, pods, demands=[large])) == ["Infeasible"]
    group["maxReplicas"] = 3
    assert reasons(facts(cluster, pods, demands=[small])) == ["WorkersPending"]


def test_evidence_has_no_duplicates_and_the_newest_comes_first() -> None:
    cluster = raycluster()
    twice = [
        event(cluster, "FailedToCreateService", "no", at=50, count=2),
        event(cluster, "FailedToCreateService", "no", at=5),
    ]
    other = event(cluster, "FailedToCreateRole", "no", at=20)
    evidence = facts(cluster, [ready_pod()], [*twice, other])
    assert [(f.reason, f.count) for f in evidence] == [("FailedToCreateService", 1), ("FailedToCreateRole", 1)]
