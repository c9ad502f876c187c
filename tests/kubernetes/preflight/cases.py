"""The cases of the differential table: mutations of shapes, each with the rule that it is meant to break, or none."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.kubernetes.bed.api import Object
from tests.kubernetes.preflight.shapes import DROP, own, put, samples

FINE = ""
HEAD = "spec.headGroupSpec.template"
WORKER = "spec.workerGroupSpecs[0]"
MAIN = f"{HEAD}.spec.containers[0]"


@dataclass
class Case:
    """One object, or one change of an object, with the expected rule."""

    name: str
    manifest: Object
    rule: str
    """The rule of pre-flight that it breaks; empty if it is valid."""
    old: Object | None = None
    """The present object, for a change."""
    sample: str | None = None
    """Name of the KubeRay sample that it comes from."""


Change = tuple[str, Any]


def cases() -> list[Case]:
    """All cases, numbered; the number names the objects of cases that need no name of their own."""
    made = [*own_cases(), *updates(), *_sample_cases()]
    for number, case in enumerate(made):
        case.name = f"{number:03d} {case.name}"
        for manifest in filter(None, (case.manifest, case.old)):
            meta = manifest["metadata"]
            if case.sample or meta.get("name") == "shape":
                meta["name"] = f"c{number:03d}"
                _own_head_service(manifest, meta["name"])
    return made


def _own_head_service(manifest: Object, name: str) -> None:
    """Samples that name the Service of their head would name one and the same."""
    spec = manifest["spec"] if isinstance(manifest["spec"], dict) else {}
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    service = (cluster.get("headGroupSpec") or {}).get("headService") if isinstance(cluster, dict) else None
    if service and service["metadata"].get("name", "").startswith("custom"):
        service["metadata"]["name"] = f"{name}-custom"


def _case(shape: str, rule: str, *changes: Change) -> Case:
    manifest = own(shape)
    for path, value in changes:
        put(manifest, path, copy.deepcopy(value))
    said = "; ".join(f"{path} {'gone' if value is DROP else repr(value)[:48]}" for path, value in changes)
    return Case(f"{shape}: {said}", manifest, rule)


def own_cases() -> Iterator[Case]:
    """The mutations of our own shapes, which need nothing but this folder."""
    for shape in ("rendered", "cluster", "fixed", "job", "rules", "borrowing", "service", "cron"):
        yield Case(f"{shape}: as it is", own(shape), FINE)
    for table in (_RENDERED, _SCHEMA, _METADATA, _CLUSTER, _PODS, _JOB, _SERVICE):
        for shape, rule, *changes in table:
            yield _case(shape, rule, *changes)


def updates() -> Iterator[Case]:
    """Changes of present objects."""
    operator, multi = "ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"
    for shape, rule, before, after in (
        ("cluster", "cel", [("spec.managedBy", operator)], [("spec.managedBy", multi)]),
        ("job", "cel", [("spec.managedBy", operator)], [("spec.managedBy", multi)]),
        ("service", "cel", [("spec.managedBy", operator)], [("spec.managedBy", multi)]),
        ("cluster", "ray.managed-by-unset", [("spec.managedBy", operator)], []),
        ("service", "ray.managed-by-unset", [("spec.managedBy", operator)], []),
        ("cluster", FINE, [("spec.managedBy", operator)], [("spec.managedBy", operator)]),
        ("cluster", FINE, [], [(f"{WORKER}.maxReplicas", 9)]),
        ("cluster", FINE, [], [(f"{MAIN}.image", "example/ray:2.61.0")]),
        ("cluster", "ray.min-over-max", [], [(f"{WORKER}.minReplicas", 9)]),
        ("cluster", "schema.enum", [], [("spec.authOptions.mode", "tokens")]),
        ("job", "cel", [], [("spec.managedBy", "me")]),
        ("service", FINE, [], [("spec.rayClusterDeletionDelaySeconds", 5)]),
        ("cluster", FINE, [("spec.managedBy", operator)], [("spec.managedBy", operator), ("spec.suspend", True)]),
    ):
        case = _case(shape, rule, *after)
        case.old = _case(shape, FINE, *before).manifest
        case.name = f"update of {case.name} (before: {before})"
        yield case


def _sample_cases() -> Iterator[Case]:
    """Every sample as it is, and most of them with one thing wrong, in turn."""
    turn = 0
    for name, sample in samples().items():
        shell = "$KSA_NAME" in str(sample)
        yield Case(f"sample {name}", copy.deepcopy(sample), "pod.name" if shell else FINE, sample=name)
        if shell or sample["kind"] == "RayCronJob":
            continue
        where = {"RayCluster": "spec", "RayJob": "spec.rayClusterSpec", "RayService": "spec.rayClusterConfig"}
        path = where[sample["kind"]]
        if path.endswith("Spec") and "rayClusterSpec" not in sample["spec"]:
            continue
        rule, changes = _SPOILS[turn % len(_SPOILS)]
        turn += 1
        manifest = copy.deepcopy(sample)
        for below, value in changes:
            put(manifest, f"{path}.{below}", copy.deepcopy(value))
        yield Case(f"sample {name}: {'; '.join(below for below, _ in changes)}", manifest, rule, sample=name)


_HEAD_MAIN = "headGroupSpec.template.spec.containers[0]"
_SPOILS: tuple[tuple[str, list[Change]], ...] = (
    ("schema.unknown-field", [("headGroupSpecs", {})]),
    ("ray.containers", [("headGroupSpec.template.spec.containers", [])]),
    ("schema.type", [("headGroupSpec.rayStartParams", {"num-cpus": 0})]),
    ("ray.start-labels", [("headGroupSpec.rayStartParams.labels", "a=b")]),
    ("schema.required", [("headGroupSpec.template", DROP)]),
    ("pod.port", [(f"{_HEAD_MAIN}.ports", [{"name": "serve", "containerPort": 80000}])]),
    ("cel", [("managedBy", "someone")]),
    ("pod.mount", [(f"{_HEAD_MAIN}.volumeMounts", [{"name": "nowhere", "mountPath": "/x"}])]),
    ("schema.pattern", [(f"{_HEAD_MAIN}.resources.limits.cpu", "two")]),
    ("ray.redis-username", [("headGroupSpec.rayStartParams.redis-username", "me")]),
    ("schema.enum", [("authOptions", {"mode": "off"})]),
    ("pod.request-over-limit", [(f"{_HEAD_MAIN}.resources", {"requests": {"cpu": 3}, "limits": {"cpu": "2500m"}})]),
    ("schema.duplicate", [(f"{_HEAD_MAIN}.env", [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}])]),
)

_SCHEMA: tuple[tuple[Any, ...], ...] = (
    ("cluster", "schema.type", (f"{WORKER}.minReplicas", "two")),
    ("cluster", "schema.type", ("spec.rayVersion", 2.6)),
    ("cluster", "schema.type", (f"{HEAD}.spec.containers", {})),
    ("cluster", "schema.type", (f"{MAIN}.env[0].value", 7)),
    ("cluster", "schema.type", ("spec.enableInTreeAutoscaling", "true")),
    ("cluster", "schema.type", (f"{WORKER}.replicas", 1.5)),
    ("cluster", "schema.type", (f"{MAIN}.resources.limits.cpu", 0.5)),
    ("cluster", "schema.type", ("spec.workerGroupSpecs", {})),
    ("cluster", "schema.type", ("spec", "none")),
    ("job", "schema.type", ("spec.entrypointNumCpus", "1")),
    ("job", "schema.type", ("spec.metadata", {"a": 1})),
    ("cluster", "schema.required", ("spec.headGroupSpec", DROP)),
    ("cluster", "schema.required", (f"{HEAD}", DROP)),
    ("cluster", "schema.required", (f"{WORKER}.groupName", DROP)),
    ("cluster", "schema.null", (f"{WORKER}.groupName", None)),
    ("cluster", "schema.required", (f"{MAIN}.name", DROP)),
    ("cluster", "schema.required", (f"{MAIN}.ports[0].containerPort", DROP)),
    ("service", "schema.required", ("spec.rayClusterConfig", DROP)),
    ("rules", "schema.required", ("spec.deletionStrategy.deletionRules[0].policy", DROP)),
    ("cluster", "schema.required", ("spec.gcsFaultToleranceOptions", {})),
    ("cluster", "schema.enum", ("spec.authOptions.mode", "tokens")),
    ("cluster", "schema.enum", ("spec.autoscalerOptions.version", "v3")),
    ("cluster", "schema.enum", ("spec.autoscalerOptions.upscalingMode", "Fast")),
    ("fixed", "schema.enum", ("spec.upgradeStrategy", {"type": "Rolling"})),
    ("rules", "schema.enum", ("spec.deletionStrategy.deletionRules[0].condition.jobStatus", "STOPPED")),
    ("rules", "schema.enum", ("spec.deletionStrategy.deletionRules[0].policy", "DeleteAll")),
    ("cluster", "schema.format", (f"{WORKER}.maxReplicas", 3_000_000_000)),
    ("job", "schema.format", ("spec.activeDeadlineSeconds", -3_000_000_000)),
    ("cluster", "schema.pattern", (f"{MAIN}.resources.requests.memory", "1 Gi")),
    ("cluster", "schema.pattern", (f"{MAIN}.resources.limits.memory", "1GiB")),
    ("cluster", "schema.duplicate", (f"{MAIN}.env[1]", {"name": "RAYPLANE_TEAM", "value": "other"})),
    ("cluster", "schema.duplicate", (f"{MAIN}.ports[2]", {"name": "again", "containerPort": 6379})),
    ("cluster", "schema.duplicate", (f"{MAIN}.volumeMounts[1]", {"name": "token", "mountPath": "/var/run/rayplane"})),
    ("cluster", "schema.duplicate", (f"{HEAD}.spec.volumes[1]", {"name": "token", "emptyDir": {}})),
    ("cluster", "schema.duplicate", (f"{HEAD}.spec.containers[1]", {"name": "ray-head", "image": "x"})),
    ("cluster", "schema.unknown-field", ("spec.workerGroups", [])),
    ("cluster", "schema.unknown-field", (f"{WORKER}.minReplica", 0)),
    ("cluster", "schema.unknown-field", (f"{MAIN}.resources.request", {})),
    ("cluster", "schema.unknown-field", ("metadata.lables", {})),
    ("cluster", "schema.unknown-field", (f"{HEAD}.metadata.generateName", "x-")),
    ("cluster", "schema.unknown-field", ("status.phase", "Ready")),
    ("job", "schema.unknown-field", ("spec.ttlSecondsAfterFinish", 3)),
    ("rules", "schema.minimum", ("spec.deletionStrategy.deletionRules[0].condition.ttlSeconds", -1)),
    ("job", "schema.minimum", ("spec.preRunningDeadlineSeconds", 0)),
    ("service", "schema.minimum", ("spec.rayClusterDeletionDelaySeconds", -1)),
    ("rules", "schema.min-items", ("spec.deletionStrategy.deletionRules", [])),
    ("cluster", "cel", ("spec.managedBy", "me")),
    ("job", "cel", ("spec.deletionStrategy", {"onSuccess": {"policy": "DeleteCluster"}})),
    (
        "rules",
        "cel",
        ("spec.deletionStrategy.onSuccess", {"policy": "DeleteSelf"}),
        ("spec.deletionStrategy.onFailure", {"policy": "DeleteSelf"}),
    ),
    ("rules", "cel", ("spec.deletionStrategy.deletionRules[0].condition", {"ttlSeconds": 3})),
    ("rules", "cel", ("spec.deletionStrategy.deletionRules[0].condition.jobDeploymentStatus", "Failed")),
    ("rules", "cel", ("spec.deletionStrategy", {})),
    ("cluster", "schema.null", ("spec.suspend", None)),
    ("cluster", FINE, (f"{WORKER}.minReplicas", None)),
    ("cluster", FINE, (f"{WORKER}.minReplicas", DROP), (f"{WORKER}.maxReplicas", DROP)),
    ("cluster", FINE, (f"{WORKER}.replicas", 2.0)),
    ("cluster", FINE, (f"{MAIN}.resources.limits", {"cpu": 1, "memory": "1.5e9"})),
    ("cluster", FINE, (f"{MAIN}.resources", {"limits": {"cpu": "1", "memory": "1.5Gi"}})),
    ("cluster", FINE, (f"{MAIN}.resources.limits", {"cpu": ".5", "memory": "1073741824"})),
    (
        "cluster",
        "ray.head-ports",
        (f"{MAIN}.ports[2]", {"name": "gcs-udp", "containerPort": 6379, "protocol": "UDP"}),
    ),
    ("cluster", "ray.head-ports", (f"{MAIN}.ports[0]", {"name": "web", "containerPort": 8080})),
    ("cluster", FINE, (f"{MAIN}.ports[0]", {"name": "metrics", "containerPort": 8080})),
    ("cluster", FINE, (f"{MAIN}.ports", DROP)),
    (
        "cluster",
        FINE,
        (
            f"{WORKER}.template.spec.containers[0].ports",
            [{"containerPort": 1}, {"containerPort": 1, "protocol": "UDP"}],
        ),
    ),
    ("cluster", FINE, (f"{MAIN}.env[1]", {"name": "my.own-variable", "value": ""})),
    ("cluster", FINE, ("spec.workerGroupSpecs", [])),
    ("cluster", FINE, ("spec.workerGroupSpecs", DROP)),
    ("cluster", FINE, ("status", {"state": "ready"})),
    ("cluster", FINE, ("spec.managedBy", "kueue.x-k8s.io/multikueue")),
    ("job", "schema.null", ("spec.deletionStrategy", None)),
    ("job", FINE, ("spec.preRunningDeadlineSeconds", 600)),
)

_RENDERED: tuple[tuple[Any, ...], ...] = (
    ("rendered", "ray.name-length", ("metadata.name", "r" * 54)),
    ("rendered", "ray.name", ("metadata.name", "2nd")),
    ("rendered", "metadata.label-value", (f"{HEAD}.spec.nodeSelector['zone']", "a b")),
    ("rendered", "pod.toleration", (f"{HEAD}.spec.tolerations", [{"key": "gpu", "operator": "Is"}])),
    ("rendered", FINE, (f"{HEAD}.spec.tolerations", [{"key": "gpu", "operator": "Exists"}])),
    ("rendered", "pod.image", (f"{MAIN}.image", "")),
    ("rendered", "ray.min-over-max", (f"{WORKER}.minReplicas", 3)),
    ("rendered", "ray.negative-minReplicas", (f"{WORKER}.minReplicas", -1)),
    ("rendered", "ray.idle-negative", (f"{WORKER}.idleTimeoutSeconds", -1)),
    ("rendered", "ray.auth-version", ("spec.rayVersion", "2.51.0")),
    ("rendered", "pod.env-name", (f"{MAIN}.env[0].name", "A=B")),
    (
        "rendered",
        "schema.duplicate",
        (f"{MAIN}.env[1].name", "RAYPLANE_TEAM"),
        (f"{MAIN}.env[0].name", "RAYPLANE_TEAM"),
    ),
    ("rendered", "pod.mount", (f"{HEAD}.spec.volumes", [])),
    ("rendered", "pod.resource-name", (f"{MAIN}.resources.limits", {"cpu": "2", "memory": "4Gi", "gpus": 1})),
    ("rendered", "ray.containers", (f"{WORKER}.template.spec.containers", [])),
    ("rendered", "schema.unknown-field", ("spec.workers", {"min": 0, "max": 2})),
    ("rendered", FINE, ("spec.suspend", True)),
    ("rendered", FINE, (f"{WORKER}.maxReplicas", 0), (f"{WORKER}.minReplicas", 0)),
    ("rendered", FINE, ("spec.workerGroupSpecs", [])),
)

_METADATA: tuple[tuple[Any, ...], ...] = (
    ("cluster", "metadata.label-value", ("metadata.labels['team']", "growth team")),
    ("cluster", "metadata.label-value", ("metadata.labels['team']", "x" * 64)),
    ("cluster", "metadata.label-key", ("metadata.labels['a b']", "x")),
    ("cluster", "metadata.label-key", ("metadata.labels['a/b/c']", "x")),
    ("cluster", "metadata.type", ("metadata.labels['team']", 1)),
    ("cluster", "metadata.type", ("metadata.annotations['since']", True)),
    ("cluster", "metadata.annotation-key", ("metadata.annotations['what is this']", "x")),
    ("cluster", "metadata.annotations-size", ("metadata.annotations['big']", "x" * 300_000)),
    ("cluster", "metadata.name", ("metadata.name", "Has_Capitals")),
    ("cluster", "metadata.name", ("metadata.name", "-begins")),
    ("cluster", "metadata.finalizer", ("metadata.finalizers", ["not a finalizer!"])),
    ("cluster", "metadata.owner", ("metadata.ownerReferences", [{"kind": "RayJob", "name": "x", "uid": "y"}])),
    ("cluster", FINE, ("metadata.labels['example.com/Team_1.x']", "")),
    ("cluster", FINE, ("metadata.annotations['Example.com/Note']", "größer: {} \n")),
)

_CLUSTER: tuple[tuple[Any, ...], ...] = (
    ("cluster", "ray.name-length", ("metadata.name", "n" * 54)),
    ("cluster", "ray.name", ("metadata.name", "1st")),
    ("cluster", "ray.name", ("metadata.name", "a.b")),
    ("cluster", FINE, ("metadata.name", "n" * 53)),
    ("cluster", "ray.containers", (f"{HEAD}.spec.containers", [])),
    ("cluster", "ray.containers", (f"{WORKER}.template.spec.containers", [])),
    ("cluster", "ray.min-over-max", (f"{WORKER}.minReplicas", 3)),
    ("fixed", "ray.min-over-max", (f"{WORKER}.minReplicas", 3), (f"{WORKER}.replicas", 3)),
    ("cluster", "ray.negative-minReplicas", (f"{WORKER}.minReplicas", -1)),
    ("cluster", "ray.negative-maxReplicas", (f"{WORKER}.maxReplicas", -1), (f"{WORKER}.minReplicas", -2)),
    ("fixed", "ray.negative-replicas", (f"{WORKER}.replicas", -1)),
    ("fixed", "ray.replicas-over-max", (f"{WORKER}.replicas", 3)),
    ("fixed", "ray.hosts", (f"{WORKER}.numOfHosts", 0)),
    ("cluster", "ray.group-twice", ("spec.workerGroupSpecs[1]", own("cluster")["spec"]["workerGroupSpecs"][0])),
    ("cluster", "ray.group-name", (f"{WORKER}.groupName", "has blank")),
    ("cluster", "ray.group-name", (f"{WORKER}.groupName", "under_score")),
    ("cluster", "ray.group-name", (f"{WORKER}.groupName", "g" * 64)),
    ("cluster", FINE, (f"{WORKER}.groupName", "Big")),
    ("cluster", FINE, (f"{WORKER}.groupName", "g" * 63)),
    ("cluster", "ray.service-type", ("spec.headGroupSpec.serviceType", "Headless")),
    ("cluster", "ray.name", ("spec.headGroupSpec.headService", {"metadata": {"name": "Head"}})),
    ("cluster", FINE, ("spec.headGroupSpec.headService", {"metadata": {"name": "1st-head"}})),
    ("cluster", "ray.resources-twice", ("spec.headGroupSpec.resources", {"CPU": "1"})),
    (
        "cluster",
        "ray.resources-twice",
        (f"{WORKER}.resources", {"CPU": "1"}),
        (f"{WORKER}.rayStartParams", {"memory": "1"}),
    ),
    ("cluster", FINE, (f"{WORKER}.resources", {"CPU": "1"})),
    ("cluster", "ray.start-labels", (f"{WORKER}.rayStartParams", {"labels": "a=b"})),
    ("cluster", "ray.group-label", (f"{WORKER}.labels", {"a b": "c"})),
    ("cluster", "ray.group-label", ("spec.headGroupSpec.labels", {"zone": "no blank"})),
    ("cluster", FINE, (f"{WORKER}.labels", {"ray.io/zone": "eu-1"})),
    ("cluster", "ray.start-resources", ("spec.headGroupSpec.rayStartParams.resources", "a lot")),
    ("cluster", FINE, ("spec.headGroupSpec.rayStartParams.resources", "'{\"a\": 1}'")),
    ("cluster", "ray.start-number", ("spec.headGroupSpec.rayStartParams.num-cpus", "two")),
    ("cluster", "ray.start-number", ("spec.headGroupSpec.rayStartParams.num-cpus", "0.5")),
    ("cluster", "ray.start-number", ("spec.headGroupSpec.rayStartParams.memory", "1000.5")),
    ("cluster", "ray.idle-negative", ("spec.autoscalerOptions.idleTimeoutSeconds", -1)),
    ("cluster", "ray.idle-negative", (f"{WORKER}.idleTimeoutSeconds", -1)),
    ("cluster", "ray.group-idle", (f"{WORKER}.idleTimeoutSeconds", 9), ("spec.autoscalerOptions.version", "v1")),
    ("fixed", "ray.group-idle", (f"{WORKER}.idleTimeoutSeconds", 9)),
    ("cluster", FINE, (f"{WORKER}.idleTimeoutSeconds", 9)),
    ("cluster", "ray.group-suspend", (f"{WORKER}.suspend", True)),
    ("fixed", FINE, (f"{WORKER}.suspend", True)),
    ("fixed", "ray.autoscaler-off", (f"{MAIN}.env[1]", {"name": "RAY_enable_autoscaler_v2", "value": "1"})),
    (
        "cluster",
        "ray.autoscaler-version-twice",
        (f"{MAIN}.env[1]", {"name": "RAY_enable_autoscaler_v2", "value": "1"}),
    ),
    ("cluster", "ray.restart-policy", (f"{HEAD}.spec.restartPolicy", "Always")),
    ("cluster", "ray.restart-policy", (f"{WORKER}.template.spec.restartPolicy", "OnFailure")),
    ("cluster", FINE, (f"{WORKER}.template.spec.restartPolicy", "Never")),
    ("fixed", FINE, (f"{WORKER}.template.spec.restartPolicy", "Always")),
    ("cluster", "ray.redis-address", (f"{MAIN}.env[1]", {"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"})),
    (
        "cluster",
        "ray.redis-address",
        (f"{MAIN}.env[1]", {"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}),
        ("spec.gcsFaultToleranceOptions", {"redisAddress": "redis:6379"}),
    ),
    (
        "cluster",
        "ray.redis-password",
        (f"{MAIN}.env[1]", {"name": "REDIS_PASSWORD", "value": "x"}),
        ("spec.gcsFaultToleranceOptions", {"redisAddress": "redis:6379"}),
    ),
    (
        "cluster",
        "ray.redis-password",
        ("spec.headGroupSpec.rayStartParams.redis-password", "x"),
        ("spec.gcsFaultToleranceOptions", {"redisAddress": "redis:6379"}),
    ),
    ("cluster", "ray.redis-username", (f"{MAIN}.env[1]", {"name": "REDIS_USERNAME", "value": "x"})),
    (
        "cluster",
        "ray.ft-twice",
        ("metadata.annotations['ray.io/ft-enabled']", "true"),
        ("spec.gcsFaultToleranceOptions", {"redisAddress": "redis:6379"}),
    ),
    (
        "cluster",
        "ray.ft-twice",
        ("metadata.annotations['ray.io/external-storage-namespace']", "x"),
        ("spec.gcsFaultToleranceOptions", {"redisAddress": "redis:6379"}),
    ),
    ("cluster", FINE, ("spec.gcsFaultToleranceOptions", {"redisAddress": "redis:6379"})),
    ("cluster", "ray.auth-version", ("spec.rayVersion", DROP)),
    ("cluster", "ray.auth-version", ("spec.rayVersion", "2.51.9")),
    ("cluster", "ray.auth-version", ("spec.rayVersion", "nightly")),
    ("cluster", FINE, ("spec.rayVersion", "2.52.0")),
    ("cluster", FINE, ("spec.rayVersion", "v2.60.0-py311")),
    ("cluster", FINE, ("spec.rayVersion", "nightly"), ("spec.authOptions.mode", "disabled")),
    ("cluster", "ray.auth-version", ("spec.authOptions.enableK8sTokenAuth", True), ("spec.rayVersion", "2.54.0")),
    (
        "cluster",
        "ray.k8s-auth",
        ("spec.authOptions", {"mode": "token", "enableK8sTokenAuth": True, "secretName": "token"}),
    ),
    ("cluster", "ray.k8s-auth", ("spec.authOptions", {"enableK8sTokenAuth": True})),
    ("cluster", FINE, ("spec.authOptions", {"mode": "token", "enableK8sTokenAuth": True})),
    ("cluster", FINE, ("spec.authOptions", {"mode": "token", "secretName": "token"})),
    (
        "fixed",
        "ray.upgrade-of-child",
        ("spec.upgradeStrategy", {"type": "Recreate"}),
        ("metadata.labels['ray.io/originated-from-crd']", "RayJob"),
    ),
    ("fixed", FINE, ("spec.upgradeStrategy", {"type": "Recreate"})),
    ("cluster", FINE, (f"{WORKER}.replicas", 0), (f"{WORKER}.minReplicas", 2)),
    ("cluster", FINE, (f"{WORKER}.replicas", DROP), (f"{WORKER}.minReplicas", 2)),
    ("cluster", FINE, ("spec.suspend", True)),
    ("fixed", FINE, (f"{WORKER}.minReplicas", 2), (f"{WORKER}.replicas", 2)),
)

_PODS: tuple[tuple[Any, ...], ...] = (
    ("cluster", "pod.quantity-negative", (f"{MAIN}.resources", {"requests": {"cpu": "-1"}})),
    ("cluster", "pod.request-over-limit", (f"{MAIN}.resources.requests.cpu", "501m")),
    ("cluster", FINE, (f"{MAIN}.resources.requests.cpu", "0.5")),
    ("cluster", "pod.resource-name", (f"{MAIN}.resources", {"limits": {"gpu": 1}})),
    ("cluster", "pod.whole-devices", (f"{MAIN}.resources", {"limits": {"nvidia.com/gpu": "500m"}})),
    ("cluster", "pod.device-limit", (f"{MAIN}.resources", {"requests": {"nvidia.com/gpu": 1}})),
    ("cluster", FINE, (f"{MAIN}.resources", {"limits": {"nvidia.com/gpu": 1}})),
    ("cluster", "pod.mount", (f"{MAIN}.volumeMounts[0].name", "tokens")),
    ("cluster", "pod.mount-path", (f"{MAIN}.volumeMounts[0].subPath", "../up")),
    ("cluster", "pod.volume-source", (f"{HEAD}.spec.volumes[1]", {"name": "two", "emptyDir": {}, "secret": {}})),
    ("cluster", FINE, (f"{HEAD}.spec.volumes[1]", {"name": "scratch"})),
    ("cluster", FINE, (f"{HEAD}.spec.volumes[1]", {"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}})),
    ("cluster", "pod.volume-name", (f"{HEAD}.spec.volumes[1]", {"name": "Two", "emptyDir": {}})),
    ("cluster", "pod.volume-secret", (f"{HEAD}.spec.volumes[1]", {"name": "two", "secret": {}})),
    ("cluster", "pod.port", (f"{MAIN}.ports[0].containerPort", 0)),
    ("cluster", "pod.port", (f"{MAIN}.ports[0].containerPort", 65536)),
    ("cluster", "pod.port-name", (f"{MAIN}.ports[0].name", "a-name-of-sixteen")),
    ("cluster", "pod.port-name", (f"{MAIN}.ports[0].name", "Gcs")),
    ("cluster", "pod.port-twice", (f"{MAIN}.ports[0].name", "serve")),
    ("cluster", FINE, (f"{MAIN}.ports[0].name", "fifteen-letters")),
    ("cluster", "pod.choice", (f"{MAIN}.ports[0].protocol", "HTTP")),
    ("cluster", "pod.env-name", (f"{MAIN}.env[1]", {"name": "A=B", "value": "x"})),
    (
        "cluster",
        "pod.env-source",
        (f"{MAIN}.env[1]", {"name": "A", "valueFrom": {}}),
    ),
    (
        "cluster",
        "pod.reference",
        (f"{MAIN}.env[1]", {"name": "A", "valueFrom": {"secretKeyRef": {"key": "token"}}}),
    ),
    (
        "cluster",
        "pod.env-twice",
        (f"{MAIN}.env[1]", {"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
    ),
    ("cluster", FINE, (f"{MAIN}.env[1]", {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}})),
    ("cluster", "pod.env-source", (f"{MAIN}.envFrom", [{"prefix": "A_"}])),
    ("cluster", "pod.reference", (f"{MAIN}.envFrom", [{"secretRef": {}}])),
    ("cluster", FINE, (f"{MAIN}.envFrom", [{"secretRef": {"name": "all", "optional": True}}])),
    ("cluster", "pod.image", (f"{MAIN}.image", "")),
    ("cluster", "pod.image", (f"{MAIN}.image", " example/ray")),
    ("cluster", "pod.container-name", (f"{MAIN}.name", "Ray_Head")),
    ("cluster", "pod.container-twice", (f"{HEAD}.spec.initContainers", [{"name": "ray-head", "image": "x"}])),
    ("cluster", "pod.choice", (f"{MAIN}.imagePullPolicy", "Sometimes")),
    ("fixed", "pod.choice", (f"{HEAD}.spec.restartPolicy", "Sometimes")),
    ("cluster", "pod.choice", (f"{HEAD}.spec.dnsPolicy", "Mine")),
    ("cluster", "pod.toleration", (f"{HEAD}.spec.tolerations", [{"key": "gpu", "operator": "Is"}])),
    ("cluster", "pod.toleration", (f"{HEAD}.spec.tolerations", [{"operator": "Exists", "value": "x"}])),
    ("cluster", "pod.toleration", (f"{HEAD}.spec.tolerations", [{"key": "gpu", "effect": "Never"}])),
    ("cluster", FINE, (f"{HEAD}.spec.tolerations", [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}])),
    ("cluster", "metadata.label-value", (f"{HEAD}.metadata.labels['team']", "growth team")),
    ("cluster", "metadata.label-value", (f"{HEAD}.spec.nodeSelector['zone']", "a b")),
    ("cluster", "pod.privileged", (f"{MAIN}.securityContext.privileged", True)),
    ("cluster", "pod.user", (f"{MAIN}.securityContext.runAsUser", -1)),
    ("cluster", "pod.probe", (f"{MAIN}.readinessProbe", {"periodSeconds": 5})),
    ("cluster", "pod.seconds", (f"{MAIN}.livenessProbe", {"exec": {"command": ["true"]}, "periodSeconds": -5})),
    ("cluster", FINE, (f"{MAIN}.livenessProbe", {"exec": {"command": ["true"]}, "periodSeconds": 5})),
    ("cluster", FINE, (f"{HEAD}.spec.terminationGracePeriodSeconds", -1)),
    ("cluster", "pod.seconds", (f"{HEAD}.spec.activeDeadlineSeconds", 0)),
    ("fixed", "pod.name", (f"{HEAD}.spec.serviceAccountName", "Not_A_Name")),
    ("cluster", "pod.request-over-limit", (f"{WORKER}.template.spec.containers[0].resources.requests.cpu", 1)),
    ("cluster", "pod.quantity-negative", ("spec.autoscalerOptions.resources", {"limits": {"cpu": "-1"}})),
    ("cluster", FINE, ("spec.autoscalerOptions.resources", {"limits": {"cpu": "1", "memory": "512Mi"}})),
)

_JOB: tuple[tuple[Any, ...], ...] = (
    ("job", "ray.name-length", ("metadata.name", "n" * 48)),
    ("job", FINE, ("metadata.name", "n" * 47)),
    ("job", "ray.name", ("metadata.name", "1st")),
    ("job", "ray.submission-mode", ("spec.submissionMode", "HttpMode")),
    ("job", "ray.ttl-negative", ("spec.ttlSecondsAfterFinished", -1)),
    ("job", "ray.ttl-without-shutdown", ("spec.shutdownAfterJobFinishes", False)),
    ("job", FINE, ("spec.shutdownAfterJobFinishes", False), ("spec.ttlSecondsAfterFinished", 0)),
    ("job", "ray.job-cluster", ("spec.rayClusterSpec", DROP)),
    ("borrowing", "ray.job-selector", ("spec.clusterSelector", {"app": "x"})),
    ("borrowing", "ray.sidecar", ("spec.submissionMode", "SidecarMode")),
    ("borrowing", "ray.job-retries", ("spec.backoffLimit", 1)),
    ("borrowing", "ray.job-suspend", ("spec.suspend", True), ("spec.shutdownAfterJobFinishes", True)),
    ("job", "ray.job-suspend", ("spec.suspend", True), ("spec.shutdownAfterJobFinishes", False)),
    ("job", FINE, ("spec.suspend", True)),
    ("job", "ray.job-retries", ("spec.submissionMode", "InteractiveMode"), ("spec.backoffLimit", 2)),
    ("job", FINE, ("spec.submissionMode", "InteractiveMode"), ("spec.entrypoint", DROP)),
    ("job", "ray.job-retries-negative", ("spec.backoffLimit", -1)),
    ("job", "ray.sidecar", ("spec.submissionMode", "SidecarMode"), ("spec.submitterConfig", {"backoffLimit": 1})),
    (
        "job",
        "ray.restart-policy",
        ("spec.submissionMode", "SidecarMode"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy", "Always"),
    ),
    ("job", FINE, ("spec.submissionMode", "SidecarMode")),
    ("job", "ray.job-deadline", ("spec.activeDeadlineSeconds", 0)),
    ("job", "ray.entrypoint", ("spec.entrypoint", "")),
    ("job", "ray.entrypoint-amount", ("spec.entrypointResources", "a lot")),
    ("job", "ray.runtime-env", ("spec.runtimeEnvYAML", "pip: [numpy")),
    ("job", "ray.runtime-env", ("spec.runtimeEnvYAML", "just words")),
    ("job", "ray.runtime-env", ("spec.runtimeEnvYAML", 'env_vars: {A: "\\ud83c\\udf89"}')),
    ("job", FINE, ("spec.runtimeEnvYAML", "pip: [numpy]\nenv_vars: {A: '1'}\n")),
    ("job", FINE, ("spec.runtimeEnvYAML", "env_vars: {A: 'a \\ud83c', B: 🎉}")),
    ("job", "ray.k8s-auth", ("spec.rayClusterSpec.authOptions.enableK8sTokenAuth", True)),
    ("job", "ray.min-over-max", ("spec.rayClusterSpec.workerGroupSpecs[0].minReplicas", 3)),
    ("job", "ray.auth-version", ("spec.rayClusterSpec.rayVersion", "2.9.0")),
    ("job", "ray.redis-username", ("spec.rayClusterSpec.headGroupSpec.rayStartParams.redis-username", "x")),
    ("rules", "ray.rules-and-shutdown", ("spec.shutdownAfterJobFinishes", True)),
    (
        "rules",
        "ray.rule-twice",
        (
            "spec.deletionStrategy.deletionRules[3]",
            {"policy": "DeleteWorkers", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 20}},
        ),
    ),
    ("rules", "ray.rule-order", ("spec.deletionStrategy.deletionRules[0].condition.ttlSeconds", 100)),
    ("rules", FINE, ("spec.deletionStrategy.deletionRules[0].condition.ttlSeconds", 60)),
    ("rules", "ray.deletion-policy", ("spec.rayClusterSpec.enableInTreeAutoscaling", True)),
    (
        "borrowing",
        "ray.deletion-policy",
        (
            "spec.deletionStrategy",
            {"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]},
        ),
    ),
    (
        "borrowing",
        FINE,
        (
            "spec.deletionStrategy",
            {"deletionRules": [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}]},
        ),
    ),
    ("job", "ray.deletion-policy", ("spec.deletionStrategy", {"onSuccess": {}, "onFailure": {}})),
    (
        "job",
        "ray.deletion-policy",
        (
            "spec.deletionStrategy",
            {"onSuccess": {"policy": "DeleteNone"}, "onFailure": {"policy": "DeleteSelf"}},
        ),
    ),
    (
        "job",
        FINE,
        (
            "spec.deletionStrategy",
            {"onSuccess": {"policy": "DeleteCluster"}, "onFailure": {"policy": "DeleteSelf"}},
        ),
    ),
    ("job", "pod.mount", ("spec.rayClusterSpec.headGroupSpec.template.spec.volumes", [])),
    ("cron", "ray.schedule", ("spec.schedule", "every night")),
    ("cron", "ray.schedule", ("spec.schedule", "61 * * * *")),
    ("cron", "schema.unknown-field", ("spec.timeZone", "Berlin")),
    ("cron", "ray.job-cluster", ("spec.jobTemplate.rayClusterSpec", DROP)),
)

_CONFIG = "spec.serveConfigV2"
_INSIDE = "spec.rayClusterConfig"
_SERVICE: tuple[tuple[Any, ...], ...] = (
    ("service", "ray.name-length", ("metadata.name", "n" * 48)),
    ("service", FINE, ("metadata.name", "n" * 47)),
    ("service", "ray.upgrade-type", ("spec.upgradeStrategy", {"type": "BlueGreen"})),
    ("service", FINE, ("spec.upgradeStrategy", {"type": "NewCluster"})),
    ("service", "ray.upgrade-options", ("spec.upgradeStrategy", {"type": "NewClusterWithIncrementalUpgrade"})),
    ("service", "ray.head-service-name", (f"{_INSIDE}.headGroupSpec.headService", {"metadata": {"name": "mine"}})),
    ("service", "ray.initializing-timeout", ("metadata.annotations['ray.io/initializing-timeout']", "soon")),
    ("service", "ray.initializing-timeout", ("metadata.annotations['ray.io/initializing-timeout']", "0")),
    ("service", "ray.initializing-timeout", ("metadata.annotations['ray.io/initializing-timeout']", "-5m")),
    ("service", FINE, ("metadata.annotations['ray.io/initializing-timeout']", "30m")),
    ("service", FINE, ("metadata.annotations['ray.io/initializing-timeout']", "600")),
    ("service", "ray.k8s-auth", (f"{_INSIDE}.authOptions.enableK8sTokenAuth", True)),
    ("service", "ray.auth-version", (f"{_INSIDE}.rayVersion", "2.40.0")),
    ("service", "ray.containers", (f"{_INSIDE}.headGroupSpec.template.spec.containers", [])),
    ("service", "ray.min-over-max", (f"{_INSIDE}.workerGroupSpecs[0].minReplicas", 3)),
    ("service", "ray.group-suspend", (f"{_INSIDE}.workerGroupSpecs[0].suspend", True)),
    ("service", "pod.port-name", (f"{_INSIDE}.headGroupSpec.template.spec.containers[0].ports[0].name", "Gcs")),
    ("service", "ray.serve-port", (f"{_INSIDE}.headGroupSpec.template.spec.containers[0].ports[1].name", "http")),
    ("service", FINE, (f"{_INSIDE}.headGroupSpec.template.spec.containers[0].ports[1].name", "serve-http")),
    ("service", "ray.serve-config", (_CONFIG, "garbage: [")),
    ("service", "ray.serve-config", (_CONFIG, "only words")),
    ("service", "ray.serve-config", (_CONFIG, "http_options: {port: 8000}")),
    ("service", "ray.serve-import-path", (_CONFIG, "applications: [{name: a, import_path: app}]")),
    ("service", "ray.serve-unknown", (_CONFIG, "applications: [{name: a, importPath: a.b}]")),
    ("service", "ray.serve-route", (_CONFIG, "applications: [{import_path: 'a:b', route_prefix: api}]")),
    ("service", "ray.serve-application", (_CONFIG, "applications: [{import_path: 'a:b', port: 9000}]")),
    (
        "service",
        "ray.serve-deployment",
        (_CONFIG, "applications: [{import_path: 'a:b', deployments: [{name: M, num_replicas: -1}]}]"),
    ),
    ("service", FINE, (_CONFIG, "applications: []")),
    ("service", FINE, (_CONFIG, "")),
    ("service", "ray.serve-twice", (_CONFIG, "applications: [{import_path: 'a:b'}, {import_path: 'c:d'}]")),
)
