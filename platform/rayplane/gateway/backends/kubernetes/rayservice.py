"""Translate a service with nodes of its own into a RayService of KubeRay 1.6, and read back how it goes. Pure.

Another application changes ``serveConfigV2`` alone, which KubeRay rolls out on the nodes that are there. Other nodes
are a second RayCluster, to which the traffic moves once it serves.
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
"""Label: the name of the service."""


@dataclass(frozen=True)
class ServiceOwner(pods.Owner):
    """Whose the pods of a service are."""

    @property
    def labels(self) -> dict[str, str]:
        """What every object of this service carries."""
        return {MANAGED_BY: MANAGER, TEAM: self.team, SERVICE: self.name, UID: self.uid}


def name_of(ref: ServiceRef) -> str:
    """The RayService's name: it begins with a letter, and is no cluster's, whose Services it would take."""
    return f"s-{ref.uid[:4]}-{ref.name}"


def serve_service(ref: ServiceRef) -> str:
    """The Service that KubeRay keeps pointed at whatever serves: it stays for the RayService's life."""
    return f"{name_of(ref)}-serve-svc"


def owner_of(ref: ServiceRef) -> ServiceOwner:
    """Whose the pods of a service are, and where its secrets are kept."""
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
    """What is kept of a RayService: how it is, and how it drifted."""
    meta, status = obj["metadata"], obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    hashes = (raycluster.ASKED_HASH, raycluster.SECRETS_HASH)
    return {
        "kind": RAYSERVICE.name,
        "metadata": {
            **{key: meta[key] for key in kept if key in meta},
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
    """The name of the RayCluster that serves; empty before one does."""
    return str(service["status"]["active"]["cluster"])


def newest_cluster(service: Object) -> str:
    """The name of the RayCluster that is to serve: one that comes up, else the one that serves; empty without any."""
    return str(service["status"]["pending"]["cluster"]) or active_cluster(service)


def look(
    service: Object | None,
    newest: Observation,
    nodes: tuple[Node, ...],
    endpoint: Endpoint | None,
    environment: Environment | None,
) -> ServiceObservation:
    """What there is of a service: its RayService, and what is seen of the newest of its clusters.

    ``endpoint``: where the Ray that serves is, if it is.
    """
    if service is None:
        return ServiceObservation("stopping" if newest.phase != "absent" else "absent", nodes=nodes)
    if service["metadata"].get("deletionTimestamp"):
        return ServiceObservation("stopping", message=newest.message, nodes=nodes)
    drift = service["drift"] or _lacking(service)
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
    found: list[Object] = [c for c in service["status"]["conditions"] if c["type"] == kind]
    return found[0] if found else {}


def _failed_application(service: Object) -> str:
    """What Serve says of an application that it could not deploy on nodes that came up for it; empty if it could."""
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


def _lacking(service: Object) -> str:
    there = raycluster.SECRETS_HASH in service["metadata"]["annotations"]
    return "" if there else "its Secret: not known to be there"
