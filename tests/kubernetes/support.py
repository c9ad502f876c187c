"""What several of the Kubernetes tests make: a namespace for a while, a plain RayCluster. No rayplane in it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.kubernetes.bed.api import Api, Object


@contextmanager
def namespace(api: Api, *, labels: Mapping[str, str] | None = None) -> Iterator[str]:
    """A namespace for the time of the block; its deletion is only asked for, and takes everything in it."""
    name = f"t-{secrets.token_hex(4)}"
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})
    try:
        yield name
    finally:
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
