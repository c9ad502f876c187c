"""Translate a service with nodes of its own into a RayService of KubeRay 1.6, and interpret its status. Pure.

A new application changes ``serveConfigV2`` alone, which KubeRay rolls out on the existing nodes. For a change of nodes
KubeRay makes a second RayCluster, and moves the traffic there once it serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.gateway.backends.base import LaunchContext, Node, Observation, ServiceObservation, ServiceRef
from rayplane.gateway.backends.kubernetes import compare, pods, raycluster
from rayplane.gateway.backends.kubernetes.kinds import MANAGED_BY, MANAGER, RAYSERVICE, TEAM, UID, Object, as_yaml
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.cluster import Endpoint, Nodes
from rayplane.nouns.environment import Environment

SERVICE = "rayplane.dev/service"
"""Label: name of the service."""


@dataclass(frozen=True)
class ServiceOwner(pods.Owner):
    """The owner of a service's objects."""

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every object of this service."""
        return {MANAGED_BY: MANAGER, TEAM: self.team, SERVICE: self.name, UID: self.uid}


def name_of(ref: ServiceRef) -> str:
    """Name of the RayService. It begins with a letter, and is no cluster's name: they would share Services."""
    return f"s-{ref.uid[:4]}-{ref.name}"


def serve_service(ref: ServiceRef) -> str:
    """Name of the Kubernetes Service that KubeRay points at the serving RayCluster, for the RayService's life."""
    return f"{name_of(ref)}-serve-svc"


def owner_of(ref: ServiceRef) -> ServiceOwner:
    """The owner of a service's objects, with the name of its Secret."""
    return ServiceOwner(team=ref.team, name=ref.name, uid=ref.uid, secret=f"{name_of(ref)}-secrets")


def render(
    ref: ServiceRef,
    nodes: Nodes,
    application: Mapping[str, Any],
    launch: LaunchContext,
    settings: KubernetesSettings,
    root: str,
) -> Object:
    """The RayService to apply, which says of itself what was asked for. It carries no secret."""
    owner = owner_of(ref)
    asked = {
        "metadata": {"labels": owner.labels},
        "spec": {
            "serveConfigV2": as_yaml(_configuration(application)),
            "upgradeStrategy": {"type": "NewCluster"},
            "rayClusterConfig": raycluster.embedded(
                raycluster.cluster_spec(owner, nodes.as_cluster(), launch, settings, root)
            ),
        },
    }
    return {
        "apiVersion": RAYSERVICE.api_version,
        "kind": RAYSERVICE.name,
        "metadata": {
            "name": name_of(ref),
            "namespace": settings.namespace(ref.team),
            "labels": owner.labels,
            "annotations": {
                raycluster.ASKED: compare.compact(asked),
                raycluster.ASKED_HASH: compare.digest(asked),
            },
        },
        "spec": asked["spec"],
    }


def trim(obj: Object) -> Object:
    """The part of a RayService that the cache keeps: its status, and its drift."""
    meta, status = obj["metadata"], obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    meta_fields = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    hashes = (raycluster.ASKED_HASH, raycluster.SECRETS_HASH)
    return {
        "kind": RAYSERVICE.name,
        "metadata": {
            **{key: meta[key] for key in meta_fields if key in meta},
            "annotations": {key: annotations[key] for key in hashes if key in annotations},
        },
        "status": {
            "conditions": status.get("conditions") or [],
            "active": _trim_status(status.get("activeServiceStatus") or {}),
            "pending": _trim_status(status.get("pendingServiceStatus") or {}),
        },
        "drift": raycluster.drift(obj),
    }


def active_cluster(service: Object) -> str:
    """Name of the RayCluster that serves; empty before the first one does."""
    return str(service["status"]["active"]["cluster"])


def newest_cluster(service: Object) -> str:
    """Name of the RayCluster that is starting, else of the one that serves; empty if there is none."""
    return str(service["status"]["pending"]["cluster"]) or active_cluster(service)


def look(
    service: Object | None,
    newest: Observation,
    nodes: tuple[Node, ...],
    endpoint: Endpoint | None,
    environment: Environment | None,
) -> ServiceObservation:
    """Observe a service from its RayService and the observation of the newest of its RayClusters.

    ``endpoint``: of the Ray that serves, if there is one.
    """
    if service is None:
        return ServiceObservation("stopping" if newest.phase != "absent" else "absent", nodes=nodes)
    if service["metadata"].get("deletionTimestamp"):
        return ServiceObservation("stopping", message=newest.message, nodes=nodes)
    drift = service["drift"] or _missing_secret(service)
    ready, upgrading = (_condition(service, kind) for kind in ("Ready", "UpgradeInProgress"))
    reason, message = str(ready.get("reason") or ""), str(ready.get("message") or "")
    if reason in ("ValidationFailed", "InitializingTimeout"):
        return ServiceObservation("failed", reason, message, nodes=nodes, drift=drift)
    if ready.get("status") == "True" and upgrading.get("status") != "True" and endpoint is not None:
        return ServiceObservation("ready", endpoint=endpoint, environment=environment, nodes=nodes, drift=drift)
    failure = _failed_application(service)
    if failure:
        return ServiceObservation("failed", "DEPLOY_FAILED", failure, nodes=nodes, drift=drift)
    reason, message = _why_not_yet(service, newest, reason, message)
    return ServiceObservation("starting", reason, message, nodes=nodes, drift=drift)


def _configuration(application: Mapping[str, Any]) -> dict[str, Any]:
    return {
        # A worker counts as ready, and gets traffic, while the proxy beside its replicas answers.
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": pods.SERVE},  # noqa: S104  the pod's own network
        "applications": [dict(application)],
    }


def _trim_status(status: Object) -> Object:
    applications = {
        name: {
            "status": app.get("status"),
            "said": [
                app.get("message"),
                *(d.get("message") for d in (app.get("serveDeploymentStatuses") or {}).values()),
            ],
        }
        for name, app in (status.get("applicationStatuses") or {}).items()
    }
    return {"cluster": status.get("rayClusterName") or "", "applications": applications}


def _condition(service: Object, kind: str) -> Object:
    matching: list[Object] = [c for c in service["status"]["conditions"] if c["type"] == kind]
    return matching[0] if matching else {}


def _failed_application(service: Object) -> str:
    """Serve's message on an application that it could not deploy on a starting RayCluster; empty if there is none."""
    for app in service["status"]["pending"]["applications"].values():
        if app["status"] == "DEPLOY_FAILED":
            return _said(app) or "Serve says DEPLOY_FAILED."
    return ""


def _why_not_yet(service: Object, newest: Observation, reason: str, message: str) -> tuple[str, str]:
    if not service["status"]["conditions"]:
        return "NotSeen", "The KubeRay operator has not looked at it yet."
    if newest.phase != "ready":
        return newest.reason or "NodesStarting", newest.message or "Its nodes are starting."
    said = [_said(app) for app in service["status"]["pending"]["applications"].values()]
    if any(said):
        return "Deploying", " ".join(filter(None, said))
    return reason or "Deploying", message or "The application is being deployed."


def _said(app: Object) -> str:
    return " ".join(str(text) for text in app["said"] if text)[-2000:]


def _missing_secret(service: Object) -> str:
    is_noted = raycluster.SECRETS_HASH in service["metadata"]["annotations"]
    return "" if is_noted else "its Secret: not known to be there"
