"""Deploy services on their clusters' Ray Serve: follow the alias, roll out what it points to, watch, take down."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from rayplane.errors import InvalidInput, NotFound
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile import runtime_env
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import Object, utcnow
from rayplane.nouns.cluster import ClusterStatus, Endpoint
from rayplane.nouns.events import Edge
from rayplane.nouns.service import Revision, ServiceSpec, ServiceStatus

log = logging.getLogger(__name__)

POLL, HURRY, IDLE = 1.0, 0.5, 3.0
FOLLOW = 5.0
"""Seconds between two looks at the alias of a service that is ready. Each costs MLflow a password's hash."""
SETTLE = 10.0
"""Seconds after a rollout in which Serve may not show it yet; after that it was undone, and is done again."""


@dataclass(frozen=True)
class Target:
    """The model version that a service's URI stands for now."""

    model: str
    version: str
    run_id: str | None


def application(name: str, spec: ServiceSpec, version: str, environment: dict[str, Any]) -> dict[str, Any]:
    """One application of Serve's configuration. Pure."""
    args: dict[str, Any] = {
        "model_uri": f"models:/{model_of(spec)[0]}/{version}",
        "service": name,
        "min_replicas": spec.replicas.min,
        "max_replicas": spec.replicas.max,
        "max_ongoing_requests": spec.max_ongoing_requests,
    }
    if spec.feature_service is not None:
        args["feature_service"] = spec.feature_service
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": spec.app,
        "args": args,
        "runtime_env": environment,
    }


def configuration(endpoint: Endpoint, applications: list[dict[str, Any]]) -> dict[str, Any]:
    """Serve's whole configuration; its HTTP listens where the endpoint says. Pure."""
    parts = urlsplit(endpoint.serve_url or "")
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": parts.hostname, "port": parts.port},
        "applications": sorted(applications, key=lambda a: str(a["name"])),
    }


def model_of(spec: ServiceSpec) -> tuple[str, str | None, str | None]:
    """(model, alias, version) of a service's URI; one of the latter two is None. Pure."""
    rest = spec.model.removeprefix("models:/")
    if "@" in rest:
        model, _, alias = rest.partition("@")
        return model, alias, None
    model, _, version = rest.rpartition("/")
    return model, None, version


class ServiceReconciler:
    """Serve drops the applications that a configuration does not list: this is the one writer of all of a cluster's."""

    kind = "Service"

    def __init__(
        self,
        platform: Platform,
        rays: Callable[[Endpoint], RayRest],
        mlflow: MlflowRest | None,
        *,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._platform = platform
        self._rays = rays
        self._mlflow = mlflow
        self._clock = clock
        self._turns: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def reconcile(self, obj: Object) -> float | None:
        """Deploy what is wanted, or look how the deployment goes."""
        spec, status = ServiceSpec.model_validate(obj.spec), ServiceStatus.model_validate(obj.status)
        cluster = self._cluster(obj, spec)
        if obj.metadata.deleted_at is not None:
            return self._delete(obj, spec, status, cluster)
        if cluster is None:
            return self._say(obj, "Failed", "ClusterGone", f"Cluster '{spec.cluster}' was deleted.", IDLE)
        if cluster.phase != "Ready" or cluster.endpoint is None or cluster.endpoint.serve_url is None:
            if _is_refused(status):
                return POLL  # stays known as such, so that it is in no neighbour's way on the next head
            message = f"Cluster '{spec.cluster}' is {cluster.phase or 'Pending'}."
            if cluster.phase == "Ready":
                message = f"Cluster '{spec.cluster}' is of a backend that serves nothing."
            return self._say(obj, "Pending", "ClusterNotReady", message, POLL)
        current = status.incarnation == cluster.incarnation and status.observed_generation == obj.metadata.generation
        if current and status.phase == "Deploying":
            return self._watch(obj, spec, cluster)
        target = self._resolve(obj, spec)
        if target is None and status.revision is None:
            message = f"Model '{spec.model}' is not there. It is deployed as soon as it is registered."
            return self._say(obj, "Pending", "NoModel", message, IDLE)
        deployed = status.revision.version if status.revision is not None else None
        if target is not None and not (current and deployed == target.version):
            return self._roll_out(obj, spec, status, cluster, target)
        if target is None and not current and status.revision is not None:
            # The alias is gone, the head is new: what was served goes on being served.
            kept = Target(status.revision.model, status.revision.version, status.revision.run_id)
            return self._roll_out(obj, spec, status, cluster, kept)
        if _is_refused(status):
            return FOLLOW  # until the spec or the alias changes
        return self._watch(obj, spec, cluster)

    def _resolve(self, obj: Object, spec: ServiceSpec) -> Target | None:
        if self._mlflow is None:
            raise InvalidInput("No MLflow server is set, so no model can be served.", remedy="Set RAYPLANE_MLFLOW_URL.")
        team = obj.metadata.team or ""
        model, alias, version = model_of(spec)
        if alias is not None:
            version = self._mlflow.alias_version(team, model, alias)
        if version is None:
            return None
        deployed = ServiceStatus.model_validate(obj.status).revision
        if deployed is not None and (deployed.model, deployed.version) == (model, version):
            return Target(model, version, deployed.run_id)
        found = self._mlflow.model_version(team, model, version)
        return Target(model, version, found.get("run_id") or None) if found is not None else None

    def _roll_out(
        self, obj: Object, spec: ServiceSpec, status: ServiceStatus, cluster: ClusterStatus, target: Target
    ) -> float:
        assert cluster.endpoint is not None
        old = status.revision
        same = (
            old is not None
            and (old.model, old.version) == (target.model, target.version)
            and status.observed_generation == obj.metadata.generation
        )
        number = (old.number if old else 0) + (0 if same else 1)
        refused = ""
        # The turn lasts until the revision is stored: a neighbour's rollout lists what it reads there.
        with self._turn(obj, spec):
            revision = Revision(
                number=number,
                model=target.model,
                version=target.version,
                run_id=target.run_id,
                deployed_at=self._clock(),
            )
            applications = self._others(obj, spec)
            applications.append(self._application(obj, spec, target.version))
            try:
                self._rays(cluster.endpoint).put_serve(configuration(cluster.endpoint, applications))
            except InvalidInput as exc:
                refused = f"Serve refuses the application: {exc}"
            with editing(self._platform.store, obj.metadata.uid, ServiceStatus) as new:
                new.revision, new.incarnation, new.environment = revision, cluster.incarnation, cluster.environment
                new.phase = "Failed" if refused else "Deploying"
                new.observed_generation = obj.metadata.generation
                message = refused or f"Version {target.version} of '{target.model}' is being deployed."
                reason = "Refused" if refused else "Deploying"
                new.set_condition("Ready", False, reason, message, obj.metadata.generation)
        log.info(
            "service %s/%s: revision %d is version %s of %s",
            *(obj.metadata.team, obj.metadata.name, number, target.version, target.model),
        )
        return FOLLOW if refused else HURRY

    def _watch(self, obj: Object, spec: ServiceSpec, cluster: ClusterStatus) -> float:
        """Take over what Serve says of the application."""
        assert cluster.endpoint is not None
        status = ServiceStatus.model_validate(obj.status)
        assert status.revision is not None
        found = self._rays(cluster.endpoint).serve_status().get("applications", {}).get(obj.metadata.name)
        age = (self._clock() - status.revision.deployed_at).total_seconds()
        if found is None:
            return POLL if age < SETTLE else self._deploy_again(obj)  # somebody took it off Serve
        state = str(found.get("status"))
        config = found.get("deployed_app_config") or {}
        wanted_uri = f"models:/{status.revision.model}/{status.revision.version}"
        if config.get("args", {}).get("model_uri", wanted_uri) != wanted_uri:
            # The state is still that of the revision before, or somebody brought that back.
            return HURRY if age <= SETTLE else self._deploy_again(obj)
        if state == "RUNNING":
            return self._ready(obj, cluster.endpoint, status.revision)
        reason = _reason(found)
        if state in ("DEPLOY_FAILED", "UNHEALTHY"):
            return self._say(obj, "Failed", state, reason or f"Serve says {state}.", FOLLOW)
        if age > spec.startup_timeout:
            message = f"It is not up after {spec.startup_timeout:g} s. {reason}".strip()
            return self._say(obj, "Failed", "StartupTimeout", message, FOLLOW)
        return self._say(obj, "Deploying", "Deploying", reason or f"Serve says {state}.", POLL)

    def _deploy_again(self, obj: Object) -> float:
        """Serve has lost the rollout: it is done again at the next look."""
        with editing(self._platform.store, obj.metadata.uid, ServiceStatus) as new:
            new.incarnation = None
        return HURRY

    def _ready(self, obj: Object, endpoint: Endpoint, revision: Revision) -> float:
        name = obj.metadata.name
        with editing(self._platform.store, obj.metadata.uid, ServiceStatus) as new:
            if new.phase != "Ready":
                log.info("service %s/%s is ready", obj.metadata.team, name)
                node = f"service:{name}#{revision.number}"
                source = f"model:{revision.model}/{revision.version}"
                self._platform.store.add_edges(obj.metadata.team or "", [Edge(source=source, target=node)])
            new.phase, new.url = "Ready", f"{(endpoint.serve_url or '').rstrip('/')}/{name}"
            new.set_condition("Ready", True, "Running", "", obj.metadata.generation)
        return FOLLOW

    def _delete(
        self, obj: Object, spec: ServiceSpec, status: ServiceStatus, cluster: ClusterStatus | None
    ) -> float | None:
        # On a head that is not the one it was deployed on there is nothing to take down.
        there = cluster is not None and cluster.endpoint is not None and cluster.incarnation == status.incarnation
        if there and status.revision is not None and cluster is not None and cluster.endpoint is not None:
            ray = self._rays(cluster.endpoint)
            if obj.metadata.name in ray.serve_status().get("applications", {}):
                if status.phase != "Deleting":
                    with self._turn(obj, spec):
                        ray.put_serve(configuration(cluster.endpoint, self._others(obj, spec)))
                return self._say(obj, "Deleting", "Deleting", "The application is being taken down.", HURRY)
        self._platform.store.remove(obj.metadata.uid)
        return None

    def _others(self, obj: Object, spec: ServiceSpec) -> list[dict[str, Any]]:
        """The cluster's other applications as they are deployed: a rollout changes its own service alone."""
        kept = []
        for other in self._platform.store.each("Service", obj.metadata.team):
            if other.metadata.uid == obj.metadata.uid or other.metadata.deleted_at is not None:
                continue
            status = ServiceStatus.model_validate(other.status)
            revision = status.revision
            # What Serve refuses would have it refuse the whole configuration, with everybody else's rollout.
            if other.spec.get("cluster") != spec.cluster or revision is None or _is_refused(status):
                continue
            try:
                other_spec = ServiceSpec.model_validate(other.spec)
                kept.append(self._application(other, other_spec, revision.version))
            except (NotFound, ValidationError) as exc:
                log.warning("service %s/%s is left out: %s", other.metadata.team, other.metadata.name, exc)
        return kept

    def _application(self, obj: Object, spec: ServiceSpec, version: str) -> dict[str, Any]:
        environment = runtime_env.build(self._platform.storage, obj.metadata.team or "", spec.package, env={})
        return application(obj.metadata.name, spec, version, environment)

    def _turn(self, obj: Object, spec: ServiceSpec) -> threading.Lock:
        return self._turns[f"{obj.metadata.team}/{spec.cluster}"]

    def _cluster(self, obj: Object, spec: ServiceSpec) -> ClusterStatus | None:
        try:
            cluster = self._platform.store.get("Cluster", obj.metadata.team or "", spec.cluster)
        except NotFound:
            return None
        return ClusterStatus.model_validate(cluster.status)

    def _say(self, obj: Object, phase: str, reason: str, message: str, again: float) -> float:
        with editing(self._platform.store, obj.metadata.uid, ServiceStatus) as status:
            status.phase = phase
            if phase != "Ready":
                status.set_condition("Ready", False, reason, message, obj.metadata.generation)
        return again


def _is_refused(status: ServiceStatus) -> bool:
    """Whether Serve took the service's last rollout for no valid application."""
    ready = status.condition("Ready")
    return status.phase == "Failed" and ready is not None and ready.reason == "Refused"


def _reason(found: dict[str, Any]) -> str:
    """Why an application is not running, from its own message and its deployments'."""
    said = [str(found.get("message") or "")]
    for name, deployment in (found.get("deployments") or {}).items():
        if deployment.get("status") != "HEALTHY" and deployment.get("message"):
            said.append(f"{name}: {deployment['message']}")
    return " ".join(filter(None, said))[-2000:]
