"""Translate a cluster into a RayCluster of KubeRay 1.6, and compute how an existing one has drifted. Pure."""

from __future__ import annotations

import json
from typing import Any

from rayplane.gateway.backends.base import ClusterRef, LaunchContext
from rayplane.gateway.backends.kubernetes import compare, pods
from rayplane.gateway.backends.kubernetes.kinds import RAYCLUSTER, UID, Object
from rayplane.gateway.backends.kubernetes.pods import Owner
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.cluster import ClusterSpec

GROUP = "workers"
"""Name of the only worker group. Kueue reserves ``head`` for the head."""

ASKED = "rayplane.dev/asked"
"""Annotation: the wanted labels and spec as JSON, so that any later drift shows, by any writer and at any time."""
ASKED_HASH = "rayplane.dev/asked-hash"
SECRETS_HASH = "rayplane.dev/secrets-hash"
"""Annotation: hash of the values in the cluster's Secret. It is written once the Secret exists."""

REDIS_PASSWORD = "redis_password"  # noqa: S105  the key's name


def owner_of(ref: ClusterRef) -> Owner:
    """The owner of a cluster's objects, with the name of its Secret."""
    return Owner(team=ref.team, name=ref.name, uid=ref.uid, secret=secret_name(ref.name))


def secret_name(cluster: str) -> str:
    """Name of a cluster's Secret."""
    return f"{cluster}-secrets"


def cluster_spec(
    owner: Owner, spec: ClusterSpec, launch: LaunchContext, settings: KubernetesSettings, root: str
) -> Object:
    """KubeRay's RayClusterSpec, which RayJob and RayService embed too. ``root`` is the URI of the storage root."""
    workers = spec.workers
    autoscaled = workers.max > workers.min
    rendered: Object = {
        "rayVersion": settings.ray_version,
        "authOptions": {"mode": "token", "secretName": owner.secret},
        "enableInTreeAutoscaling": autoscaled,
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": pods.start_params(launch.size, is_head=True),
            "template": pods.head(owner, launch, settings, root, autoscaled=autoscaled),
        },
        "workerGroupSpecs": [],
    }
    if autoscaled:
        rendered["autoscalerOptions"] = pods.autoscaler(settings)
    if workers.max:
        group = {
            "groupName": GROUP,
            "minReplicas": workers.min,
            "maxReplicas": workers.max,
            "rayStartParams": pods.start_params(launch.size, is_head=False),
            "template": pods.worker(owner, launch, settings, root),
        }
        rendered["workerGroupSpecs"] = [
            group | ({"idleTimeoutSeconds": settings.worker_idle_seconds} if autoscaled else {})
        ]
    if settings.redis_address:
        password = {"secretKeyRef": {"name": owner.secret, "key": REDIS_PASSWORD}}
        rendered["gcsFaultToleranceOptions"] = {
            "redisAddress": settings.redis_address,
            **({"redisPassword": {"valueFrom": password}} if settings.redis_password_path else {}),
        }
    return rendered


def render(
    ref: ClusterRef,
    spec: ClusterSpec,
    launch: LaunchContext,
    settings: KubernetesSettings,
    root: str,
) -> Object:
    """The RayCluster to apply, annotated with the wanted spec. It carries no secret."""
    owner = owner_of(ref)
    asked = {
        "metadata": {"labels": owner.labels},
        "spec": {**cluster_spec(owner, spec, launch, settings, root), "suspend": False},
    }
    return {
        "apiVersion": RAYCLUSTER.api_version,
        "kind": RAYCLUSTER.name,
        "metadata": {
            "name": ref.name,
            "namespace": settings.namespace(ref.team),
            "labels": owner.labels,
            "annotations": {ASKED: compare.compact(asked), ASKED_HASH: compare.digest(asked)},
        },
        "spec": embedded(asked["spec"]),
    }


def embedded(spec: Object) -> Object:
    """A RayClusterSpec with the number of workers that a new cluster starts with."""
    # Ray's autoscaler expects both fields in every group, and changes them from then on.
    scale: Object = {"scaleStrategy": {"workersToDelete": []}}
    groups = [{**group, "replicas": group["minReplicas"], **scale} for group in spec["workerGroupSpecs"]]
    return {**spec, "workerGroupSpecs": groups}


def keeping_scale(manifest: Object, cluster: Object) -> Object:
    """The manifest with the number of workers that the autoscaler has chosen.

    Server-side apply treats the list of groups as one field, so leaving the number out would reset it. The manifest
    carries the resource version that the number was read from, so that it conflicts with a later choice.
    """
    present = {group["groupName"]: group for group in cluster["spec"].get("workerGroupSpecs") or []}
    groups = []
    for group in manifest["spec"]["workerGroupSpecs"]:
        scale = {key: present[group["groupName"]][key] for key in _SCALE if key in present.get(group["groupName"], {})}
        if "replicas" in scale:
            scale["replicas"] = min(max(scale["replicas"], group["minReplicas"]), group["maxReplicas"])
        groups.append({**group, **scale})
    return {
        **manifest,
        "metadata": {**manifest["metadata"], "resourceVersion": cluster["metadata"]["resourceVersion"]},
        "spec": {**manifest["spec"], "workerGroupSpecs": groups},
    }


_SCALE = ("replicas", "scaleStrategy")


def trim(obj: Object) -> Object:
    """The part of a RayCluster that the cache keeps: status, drift, and the fields that an apply must repeat."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    meta_fields = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp")
    groups = [
        {key: group[key] for key in ("groupName", "minReplicas", "maxReplicas", *_SCALE) if key in group}
        for group in spec.get("workerGroupSpecs") or []
    ]
    return {
        "kind": RAYCLUSTER.name,
        "metadata": {
            **{key: meta[key] for key in (*meta_fields, "deletionTimestamp", "finalizers") if key in meta},
            "annotations": {key: annotations[key] for key in (ASKED_HASH, SECRETS_HASH) if key in annotations},
        },
        "spec": {
            "suspend": bool(spec.get("suspend")),
            "enableInTreeAutoscaling": bool(spec.get("enableInTreeAutoscaling")),
            "gcsFaultTolerance": bool(spec.get("gcsFaultToleranceOptions")),
            "workerGroupSpecs": groups,
        },
        # Empty until the operator has processed it.
        "status": {"conditions": status.get("conditions") or []} if status else {},
        "drift": drift(obj),
    }


def drift(obj: Object) -> str:
    """Differences of a RayCluster from the wanted spec in its own annotation; empty if there is none."""
    annotations = obj["metadata"].get("annotations") or {}
    try:
        asked: Any = json.loads(annotations.get(ASKED, ""))
    except ValueError:
        return f"annotation {ASKED}: missing or no JSON"
    if compare.digest(asked) != annotations.get(ASKED_HASH):
        return f"annotation {ASKED}: changed"
    return compare.drift(asked, {"metadata": obj["metadata"], "spec": obj.get("spec")})


def is_of(obj: Object, ref: ClusterRef) -> bool:
    """True if a RayCluster belongs to this cluster, not to an earlier one of the same name."""
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return labels.get(UID) == ref.uid
