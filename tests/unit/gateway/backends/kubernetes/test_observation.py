"""The observation of a RayCluster and its pods, state by state."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rayplane.gateway.backends.kubernetes import observation
from rayplane.gateway.backends.kubernetes.raycluster import SECRETS_HASH

AT = "2026-01-02T03:04:05Z"


def cluster(*, deleting: bool = False, suspend: bool = False, drift: str = "", status: Any = None) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": "dev", "uid": "rc", "annotations": {SECRETS_HASH: "h"}}
    return {
        "metadata": meta | ({"deletionTimestamp": AT} if deleting else {}),
        "spec": {"suspend": suspend},
        "status": status if status is not None else {"state": "ready"},
        "drift": drift,
    }


def pod(uid: str = "p1", kind: str = "head", **status: Any) -> dict[str, Any]:
    room = {"requests": {"cpu": "1500m", "memory": "2Gi", "nvidia.com/gpu": "1"}}
    beside = {"name": "autoscaler", "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}}}
    ray = {"name": f"ray-{kind}", "resources": room}
    return {
        "metadata": {"name": f"dev-{uid}", "uid": uid, "creationTimestamp": AT, "labels": {"ray.io/node-type": kind}},
        "spec": {"nodeName": "node", "containers": [beside, ray] if kind == "head" else [ray]},
        "status": {"phase": "Running", "podIP": "10.0.0.7", **status},
    }


def ready(uid: str = "p1", kind: str = "head") -> dict[str, Any]:
    return pod(uid, kind, conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": AT}])


def leaving(some: dict[str, Any]) -> dict[str, Any]:
    return {**some, "metadata": {**some["metadata"], "deletionTimestamp": AT}}


def dead(uid: str = "p1", reason: str = "Error", code: int = 1) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": "2026-01-02T03:05:00Z"}}
    return pod(uid, phase="Failed", containerStatuses=[{"name": "ray-head", "state": state}])


def test_a_cluster_without_any_object_is_absent() -> None:
    assert observation.look(None, [], None).phase == "absent"


def test_pods_without_their_raycluster_are_still_stopping() -> None:
    state = observation.look(None, [ready()], None)
    assert (state.phase, len(state.nodes)) == ("stopping", 1)


def test_a_raycluster_that_is_being_deleted_is_stopping_and_its_message_names_what_is_left() -> None:
    raycluster = cluster(deleting=True)
    raycluster["metadata"]["finalizers"] = ["ray.io/gcs-ft-redis-cleanup-finalizer", "foregroundDeletion"]
    assert observation.look(raycluster, [], None).message.endswith("waits for ray.io/gcs-ft-redis-cleanup-finalizer.")


def test_a_cluster_is_suspended_only_once_no_pod_is_left() -> None:
    assert observation.look(cluster(suspend=True), [leaving(ready())], None).phase == "stopping"
    assert observation.look(cluster(suspend=True), [], None).phase == "suspended"


def test_a_head_whose_probes_pass_is_ready_as_one_incarnation() -> None:
    state = observation.look(cluster(), [ready("p1"), ready("w1", "worker")], None)
    assert (state.phase, state.incarnation) == ("ready", "p1")
    assert [(n.kind, n.cpu, n.memory, n.gpu) for n in state.nodes] == [
        ("head", 1.5, 2 * 2**30, 1),
        ("worker", 1.5, 2 * 2**30, 1),
    ]


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.5gb"])
def test_a_node_counts_gpus_of_any_vendor(resource: str) -> None:
    raycluster = pod()
    raycluster["spec"]["containers"][-1]["resources"]["requests"] = {"cpu": "1", "memory": "1Gi", resource: "2"}
    node = observation.node_of(raycluster)
    assert node is not None
    assert node.gpu == 2


def test_a_head_pod_that_is_being_deleted_is_no_head() -> None:
    state = observation.look(cluster(), [leaving(ready())], None)
    assert (state.phase, state.incarnation) == ("starting", None)


def test_a_head_failure_is_reported_until_the_reconciler_has_handled_it() -> None:
    failure = observation.HeadFailure("p1", "OOMKilled", "It used more memory than its size has.")
    state = observation.look(cluster(), [ready("p2")], failure)
    assert (state.phase, state.reason, state.incarnation) == ("failed", "OOMKilled", None)


def test_a_cluster_that_is_not_ready_says_why() -> None:
    unschedulable = pod(
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]
    )
    unschedulable["spec"]["nodeName"] = None
    image = {"name": "ray-head", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    failure = {
        "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod", "message": "q"}]
    }
    cases = {
        "Unschedulable": observation.look(cluster(), [unschedulable], None),
        "ImagePullBackOff": observation.look(cluster(), [pod(phase="Pending", containerStatuses=[image])], None),
        "FailedCreateHeadPod": observation.look(cluster(status=failure), [], None),
        "NotSeen": observation.look(cluster(status={}), [], None),
        "NoHead": observation.look(cluster(), [], None),
        "Starting": observation.look(cluster(), [pod()], None),
    }
    for reason, state in cases.items():
        assert (state.phase, state.reason) == ("starting", reason)
        assert state.message
    assert cases["Unschedulable"].nodes == ()


def test_drift_and_a_missing_secret_are_reported_in_every_state_that_can_be_repaired() -> None:
    lacking = cluster()
    lacking["metadata"]["annotations"] = {}
    for raycluster in (cluster(drift="spec.x: 1, not 2"), lacking):
        assert observation.look(raycluster, [ready()], None).drift
        assert observation.look(raycluster, [], None).drift
    assert observation.look(cluster(), [ready()], None).drift == ""


def test_a_head_failure_keeps_the_last_output() -> None:
    failure = observation.head_failure(ready(), dead(reason="OOMKilled", code=137))
    assert failure is not None
    assert (failure.incarnation, failure.reason) == ("p1", "OOMKilled")
    assert "137" in failure.message
    assert "more memory" in failure.message


@pytest.mark.parametrize(
    ("before", "after", "falls"),
    [
        (None, ready(), False),
        (pod(), ready(), False),
        (ready(), ready(), False),
        (ready(), None, True),
        (ready(), leaving(ready()), True),
        (leaving(ready()), None, False),
        (pod(), None, True),
        (pod(phase="Pending"), None, False),
        (pod(), dead(), True),
        (dead(), leaving(dead()), False),
        (ready("w", "worker"), None, False),
    ],
)
def test_which_changes_of_a_head_pod_are_a_head_failure(before: Any, after: Any, falls: bool) -> None:
    assert (observation.head_failure(before, after) is not None) is falls


def test_a_node_ended_when_its_containers_did_or_when_its_pod_vanished() -> None:
    ended = observation.node_of(dead())
    assert ended is not None
    assert ended.ended_at == datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
    seen_gone = datetime(2026, 1, 2, 4, tzinfo=UTC)
    gone = observation.node_of(ready(), gone_at=seen_gone)
    assert gone is not None
    assert gone.ended_at == seen_gone
    here = observation.node_of(ready())
    assert here is not None
    assert here.ended_at is None


def test_an_endpoint_is_the_heads_address_and_every_pod_is_scraped() -> None:
    six = ready("w1", "worker")
    six["status"]["podIP"] = "fd00::7"
    endpoint = observation.endpoint([ready(), six], "/token")
    assert endpoint.dashboard_url == "http://10.0.0.7:8265"
    assert endpoint.client_address == "ray://10.0.0.7:10001"
    assert endpoint.serve_url == "http://10.0.0.7:8000"
    assert endpoint.metrics_targets == ["10.0.0.7:8080", "[fd00::7]:8080"]


def test_a_trimmed_pod_gives_the_same_observation() -> None:
    for whole in (ready(), dead(), pod()):
        bare = {**whole, "spec": {**whole["spec"], "volumes": ["x"] * 10}}
        assert observation.look(cluster(), [observation.trim_pod(bare)], None) == observation.look(
            cluster(), [whole], None
        )


@pytest.mark.parametrize(
    ("after", "news"),
    [
        (None, True),
        (cluster(), False),
        (cluster(suspend=True), True),
        (cluster(deleting=True), True),
        (cluster(drift="spec.suspend: True, not False"), True),
        (cluster(status={}), True),
    ],
)
def test_only_a_change_of_the_observation_is_news(after: dict[str, Any] | None, news: bool) -> None:
    assert observation.is_news(cluster(), after) is news
    assert observation.is_news(after, cluster()) is news


def test_a_new_resource_version_is_no_news_and_the_annotation_of_the_secret_is() -> None:
    later, unnoted = cluster(), cluster()
    later["metadata"] |= {"resourceVersion": "9", "annotations": {SECRETS_HASH: "h", "asked": "other"}}
    unnoted["metadata"]["annotations"] = {}
    assert not observation.is_news(cluster(), later)
    assert observation.is_news(unnoted, cluster())
