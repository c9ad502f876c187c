"""Kubernetes objects as the API gives them, for facts about a cluster `dev`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.backends.kubernetes.evidence import evidence

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
K8s = dict[str, Any]


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def raycluster(*, age: float = 60, status: K8s | None = None, **spec: Any) -> K8s:
    meta = {
        "name": "dev",
        "uid": "rc-1",
        "generation": 1,
        "creationTimestamp": ago(age),
        "managedFields": [
            {"manager": "rayplane", "time": ago(age), "fieldsV1": {"f:spec": {}}},
            {"manager": "ray-operator", "time": ago(1), "subresource": "status"},
        ],
    }
    said = {"conditions": [{"type": "HeadPodReady", "status": "False"}], "observedGeneration": 1}
    return {"metadata": meta, "spec": spec, "status": said if status is None else status}


def pod(
    name: str = "dev-head",
    *,
    kind: str = "head",
    node: str | None = "n1",
    phase: str = "Pending",
    containers: list[K8s] | None = None,
    conditions: list[K8s] | None = None,
    age: float = 30,
    **more: Any,
) -> K8s:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "labels": {"ray.io/node-type": kind, "ray.io/cluster": "dev"},
            "creationTimestamp": ago(age),
        },
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": phase,
            "conditions": conditions or [],
            "containerStatuses": containers or [],
            **more,
        },
    }


def ready_pod(name: str = "dev-head", kind: str = "head", age: float = 30) -> K8s:
    running = {"name": f"ray-{kind}", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": ago(20)}}}
    ready = [{"type": "Ready", "status": "True"}]
    return pod(name, kind=kind, phase="Running", containers=[running], conditions=ready, age=age)


def waiting(reason: str, message: str = "", *, name: str = "ray-head", **more: Any) -> K8s:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": name, "ready": False, "restartCount": 0, "state": state, **more}


def ended(code: int, reason: str = "Error", message: str = "", at: float = 5) -> K8s:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": ago(at)}}


def event(
    thing: K8s, reason: str, message: str, *, at: float = 5, kind: str = "Warning", field: str = "", count: int = 1
) -> K8s:
    return {
        "involvedObject": {"uid": thing["metadata"]["uid"], "name": thing["metadata"]["name"], "fieldPath": field},
        "reason": reason,
        "message": message,
        "type": kind,
        "lastTimestamp": ago(at),
        "count": count,
    }


def facts(
    cluster: K8s | None, pods: list[K8s] | None = None, events: list[K8s] | None = None, **more: Any
) -> list[Evidence]:
    return evidence(cluster, pods or [], events or [], now=NOW, **more)
