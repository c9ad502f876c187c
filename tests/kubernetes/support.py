"""Objects for several Kubernetes tests: a temporary namespace, a plain RayCluster. Uses no code of rayplane."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from tests.kubernetes.bed.api import Api, Object, wait_for

_KUEUE = "kueue.x-k8s.io"
_POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@contextmanager
def namespace(api: Api, *, labels: Mapping[str, str] | None = None) -> Iterator[str]:
    """A namespace for the time of the block, deleted at its end with all of its objects, without waiting for that."""
    name = f"t-{secrets.token_hex(4)}"
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})
    try:
        yield name
    except BaseException as error:
        try:
            api.delete("v1", "Namespace", name)
        except httpx.TransportError as another:
            error.add_note(f"Nor can namespace {name} be deleted: {another}")
        raise
    api.delete("v1", "Namespace", name)


def head_and_workers(name: str, where: str, *, image: str, workers: int) -> Object:
    """A RayCluster as KubeRay's documentation shows it, without autoscaler."""
    room = {"cpu": "500m", "memory": "1Gi"}

    def template(container: str) -> Object:
        return {
            "spec": {
                "containers": [{"name": container, "image": image, "resources": {"requests": room, "limits": room}}]
            }
        }

    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": where},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {}, "template": template("ray-head")},
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": workers,
                    "minReplicas": workers,
                    "maxReplicas": workers,
                    "rayStartParams": {},
                    "template": template("ray-worker"),
                }
            ],
        },
    }


def restricted_pod(
    name: str, where: str, image: str, command: list[str], *, labels: Mapping[str, str] | None = None
) -> Object:
    """A pod that a restricted namespace takes, running one command once."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": where, "labels": dict(labels or {})},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": _POD_SECURITY,
            "containers": [
                {"name": "main", "image": image, "command": command, "securityContext": _CONTAINER_SECURITY}
            ],
        },
    }


def autoscaled(name: str, where: str, *, image: str, most: int, idle_seconds: int) -> Object:
    """A RayCluster with token authentication whose workers come and go, from zero; nothing runs on its head."""

    def template(container: str, memory: str) -> Object:
        room = {"requests": {"cpu": "200m", "memory": memory}, "limits": {"cpu": "2", "memory": memory}}
        described = {"name": container, "image": image, "resources": room, "securityContext": _CONTAINER_SECURITY}
        spec = {"securityContext": _POD_SECURITY, "containers": [described], "terminationGracePeriodSeconds": 1}
        return {"spec": spec}

    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": where},
        "spec": {
            "rayVersion": "2.60.0",
            "authOptions": {"mode": "token"},
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {
                "version": "v2",
                "idleTimeoutSeconds": idle_seconds,
                "securityContext": _CONTAINER_SECURITY,
                "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            },
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": template("ray-head", "3Gi")},
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": 0,
                    "minReplicas": 0,
                    "maxReplicas": most,
                    "rayStartParams": {},
                    "template": template("ray-worker", "2Gi"),
                }
            ],
        },
    }


def has_workloads(api: Api) -> bool:
    """True if Kueue's kind is defined."""
    return "Workload" in api.kinds(f"{_KUEUE}/v1beta1")


def make_workloads_a_kind(api: Api) -> None:
    """Define Kueue's kind, as if Kueue were installed, without a controller that acts on it."""
    names = {"kind": "Workload", "listKind": "WorkloadList", "plural": "workloads", "singular": "workload"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": schema}
    api.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": f"workloads.{_KUEUE}",
                # The API server asks this of kinds below k8s.io; Kueue's own has it too.
                "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue"},
            },
            "spec": {"group": _KUEUE, "names": names, "scope": "Namespaced", "versions": [version]},
        }
    )
    wait_for("Kueue's kind known", lambda: has_workloads(api), seconds=60)
