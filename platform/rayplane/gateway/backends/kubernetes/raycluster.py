"""Translate a cluster into a RayCluster of KubeRay 1.6, and read back how one that is there differs. Pure."""

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
"""The one group of workers. ``head`` is reserved: Kueue takes it for the head."""

ASKED = "rayplane.dev/asked"
"""Annotation: what was asked for, as JSON, so that drift shows whoever made it and whenever."""
ASKED_HASH = "rayplane.dev/asked-hash"
SECRETS_HASH = "rayplane.dev/secrets-hash"
"""Annotation: of the secrets that were put into the cluster's Secret. It is written after the Secret is there."""

REDIS_PASSWORD = "redis_password"  # noqa: S105  the key's name


def owner_of(ref: ClusterRef) -> Owner:
    """Whose the pods of a cluster are, and where its secrets are kept."""
    return Owner(team=ref.team, name=ref.name, uid=ref.uid, secret=secret_name(ref.name))


def secret_name(cluster: str) -> str:
    """The Secret of a cluster."""
    return f"{cluster}-secrets"


def cluster_spec(
    owner: Owner, spec: ClusterSpec, launch: LaunchContext, settings: KubernetesSettings, root: str
) -> Object:
    """KubeRay's RayClusterSpec, which RayJob and RayService embed too. ``root`` is the URI of the storage root."""
    workers = spec.workers
    autoscaled = workers.max > workers.min
    made: Object = {
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
        made["autoscalerOptions"] = pods.autoscaler(settings)
    if workers.max:
        group = {
            "groupName": GROUP,
            "minReplicas": workers.min,
            "maxReplicas": workers.max,
            "rayStartParams": pods.start_params(launch.size, is_head=False),
            "template": pods.worker(owner, launch, settings, root),
        }
        made["workerGroupSpecs"] = [
            group | ({"idleTimeoutSeconds": settings.worker_idle_seconds} if autoscaled else {})
        ]
    if settings.redis_address:
        password = {"secretKeyRef": {"name": owner.secret, "key": REDIS_PASSWORD}}
        made["gcsFaultToleranceOptions"] = {
            "redisAddress": settings.redis_address,
            **({"redisPassword": {"valueFrom": password}} if settings.redis_password_path else {}),
        }
    return made


def render(
    ref: ClusterRef,
    spec: ClusterSpec,
    launch: LaunchContext,
    settings: KubernetesSettings,
    root: str,
) -> Object:
    """The RayCluster to apply, which says of itself what was asked for. It carries no secret."""
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
    """A RayClusterSpec with the number of workers that its cluster begins with, as it is sent."""
    # Ray's autoscaler expects both members in every group; what it makes of them is its own.
    scale: Object = {"scaleStrategy": {"workersToDelete": []}}
    groups = [{**group, "replicas": group["minReplicas"], **scale} for group in spec["workerGroupSpecs"]]
    return {**spec, "workerGroupSpecs": groups}


def keeping_scale(manifest: Object, held: Object) -> Object:
    """The manifest with the number of workers that the autoscaler chose meanwhile.

    The list of groups is one field to server-side apply, so that leaving that number out would reset it. It holds only
    under the version that it was read from.
    """
    theirs = {group["groupName"]: group for group in held["spec"].get("workerGroupSpecs") or []}
    groups = []
    for group in manifest["spec"]["workerGroupSpecs"]:
        scale = {key: theirs[group["groupName"]][key] for key in _SCALE if key in theirs.get(group["groupName"], {})}
        if "replicas" in scale:
            scale["replicas"] = min(max(scale["replicas"], group["minReplicas"]), group["maxReplicas"])
        groups.append({**group, **scale})
    return {
        **manifest,
        "metadata": {**manifest["metadata"], "resourceVersion": held["metadata"]["resourceVersion"]},
        "spec": {**manifest["spec"], "workerGroupSpecs": groups},
    }


_SCALE = ("replicas", "scaleStrategy")


def trim(obj: Object) -> Object:
    """What is kept of a RayCluster: how it is, how it drifted, and what a re-application must repeat."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp")
    groups = [
        {key: group[key] for key in ("groupName", "minReplicas", "maxReplicas", *_SCALE) if key in group}
        for group in spec.get("workerGroupSpecs") or []
    ]
    return {
        "kind": RAYCLUSTER.name,
        "metadata": {
            **{key: meta[key] for key in (*kept, "deletionTimestamp", "finalizers") if key in meta},
            "annotations": {key: annotations[key] for key in (ASKED_HASH, SECRETS_HASH) if key in annotations},
        },
        "spec": {
            "suspend": bool(spec.get("suspend")),
            "enableInTreeAutoscaling": bool(spec.get("enableInTreeAutoscaling")),
            "gcsFaultTolerance": bool(spec.get("gcsFaultToleranceOptions")),
            "workerGroupSpecs": groups,
        },
        # Empty until the operator has looked at it.
        "status": {"conditions": status.get("conditions") or []} if status else {},
        "drift": drift(obj),
    }


def drift(obj: Object) -> str:
    """How a RayCluster differs from what was asked for, by its own annotation; empty if it does not."""
    annotations = obj["metadata"].get("annotations") or {}
    try:
        asked: Any = json.loads(annotations.get(ASKED, ""))
    except ValueError:
        return f"annotation {ASKED}: missing or no JSON"
    if compare.digest(asked) != annotations.get(ASKED_HASH):
        return f"annotation {ASKED}: changed"
    return compare.drift(asked, {"metadata": obj["metadata"], "spec": obj.get("spec")})


def is_of(obj: Object, ref: ClusterRef) -> bool:
    """Whether a RayCluster is this very cluster's, not a predecessor's of the same name."""
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return labels.get(UID) == ref.uid
