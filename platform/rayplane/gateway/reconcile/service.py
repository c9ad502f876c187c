"""Deploy services: follow the alias, roll out the version that it points to, watch the rollout, take it down.

Module ``hosts`` knows the two hosts of a service: a cluster's Serve, and nodes of the service's own.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rayplane.errors import InvalidInput
from rayplane.gateway.backends.base import Backend
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile import renewal
from rayplane.gateway.reconcile.hosts import Host, HostState, OnCluster, OnOwnNodes, is_refused
from rayplane.gateway.reconcile.serve_config import model_of
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.store.typed import Service
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import Endpoint
from rayplane.nouns.events import Edge
from rayplane.nouns.service import Revision, ServiceSpec, ServiceStatus

log = logging.getLogger(__name__)

POLL, HURRY, IDLE = 1.0, 0.5, 3.0
FOLLOW = 5.0
"""Seconds between two looks at the alias of a ready service. Each makes MLflow hash a password."""
SETTLE = 10.0
"""Seconds after a rollout in which Serve may not show it yet; if it does not by then, it was undone and is repeated."""


@dataclass(frozen=True)
class Target:
    """The model version to which a service's URI resolves now."""

    model: str
    version: str
    run_id: str | None


class ServiceReconciler:
    """Reconciler of services: each serves the model version to which its URI resolves, until it is deleted."""

    kind = "Service"

    def __init__(
        self,
        platform: Platform,
        backends: Callable[[str], Backend],
        rays: Callable[[Endpoint], RayRest],
        mlflow: MlflowRest | None,
        *,
        wake: Callable[[str], None] = lambda uid: None,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._platform = platform
        self._wake = wake
        """Called with an object's uid to have the loop look at it."""
        self._backends = backends
        self._rays = rays
        self._mlflow = mlflow
        self._clock = clock
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def reconcile(self, obj: Service) -> float | None:
        """Roll out the wanted version, or follow the rollout under way."""
        spec, status = obj.spec, obj.status
        host = self._host(obj, spec)
        if obj.metadata.deleted_at is not None:
            return self._delete(obj, host)
        host_state = host.state()
        if not host_state.deployable:
            if is_refused(status) and not host_state.failed:
                return POLL  # stays marked as refused, so that other rollouts leave it out on the next head
            phase, again = ("Failed", IDLE) if host_state.failed else ("Pending", POLL)
            return self._report(obj, phase, host_state.reason, host_state.message, again)
        meta = obj.metadata
        renewal.record(self._platform.store, meta.uid, ServiceStatus, status, host_state.not_renewed, meta.generation)
        current = status.incarnation == host_state.incarnation and status.observed_generation == obj.metadata.generation
        if current and status.phase == "Deploying":
            return self._watch(obj, spec, host, host_state)
        target = self._resolve(obj, spec)
        if target is None and status.revision is None:
            message = f"Model '{spec.model}' is not there. The service is deployed once the model is registered."
            return self._report(obj, "Pending", "NoModel", message, IDLE)
        deployed = status.revision.version if status.revision is not None else None
        if target is not None and not (current and deployed == target.version):
            return self._roll_out(obj, status, host, host_state, target)
        if target is None and not current and status.revision is not None:
            # The alias is gone and the head is new: the version served before is deployed on it.
            served = Target(status.revision.model, status.revision.version, status.revision.run_id)
            return self._roll_out(obj, status, host, host_state, served)
        if is_refused(status):
            return FOLLOW  # until the spec or the alias changes
        return self._watch(obj, spec, host, host_state)

    def _host(self, obj: Service, spec: ServiceSpec) -> Host:
        if spec.nodes is not None:
            return OnOwnNodes.read(obj, spec, spec.nodes, self._platform, self._backends, wake=self._wake)
        lock = self._locks[f"{obj.metadata.team}/{spec.cluster}"]
        return OnCluster.read(obj, spec, self._platform, self._rays, lock)

    def _resolve(self, obj: Service, spec: ServiceSpec) -> Target | None:
        if self._mlflow is None:
            raise InvalidInput("No MLflow server is set, so no model can be served.", remedy="Set RAYPLANE_MLFLOW_URL.")
        workspace = self._platform.workspace(obj.team)
        model, alias, version = model_of(spec)
        if alias is not None:
            version = self._mlflow.alias_version(workspace, model, alias)
        if version is None:
            return None
        deployed = obj.status.revision
        if deployed is not None and (deployed.model, deployed.version) == (model, version):
            return Target(model, version, deployed.run_id)
        version_info = self._mlflow.model_version(workspace, model, version)
        return Target(model, version, version_info.get("run_id") or None) if version_info is not None else None

    def _roll_out(
        self, obj: Service, status: ServiceStatus, host: Host, host_state: HostState, target: Target
    ) -> float:
        old = status.revision
        same = (
            old is not None
            and (old.model, old.version) == (target.model, target.version)
            and status.observed_generation == obj.metadata.generation
        )
        number = (old.number if old else 0) + (0 if same else 1)
        refused = ""
        with host.lock():
            revision = Revision(
                number=number,
                model=target.model,
                version=target.version,
                run_id=target.run_id,
                deployed_at=self._clock(),
            )
            try:
                host.deploy(target.version)
            except InvalidInput as exc:
                refused = f"Serve refuses the application: {exc}"
            # An incarnation that was missing came with the application.
            host_state = host_state if host_state.incarnation is not None else host.state()
            with editing(self._platform.store, obj.metadata.uid, ServiceStatus) as new:
                new.revision, new.incarnation = revision, host_state.incarnation
                new.environment = host_state.environment or new.environment
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

    def _watch(self, obj: Service, spec: ServiceSpec, host: Host, host_state: HostState) -> float:
        """Take the application's state from Serve into the status."""
        status = obj.status
        assert status.revision is not None
        age = (self._clock() - status.revision.deployed_at).total_seconds()
        if host_state.endpoint is None:
            return self._await_nodes(obj, spec, host_state, age)
        application = self._rays(host_state.endpoint).serve_status().get("applications", {}).get(obj.metadata.name)
        if application is None and host.redeploys:
            # After SETTLE: the application was removed from Serve from outside.
            return POLL if age < SETTLE else self._deploy_again(obj)
        state = "NOT_STARTED" if application is None else str(application.get("status"))
        config = (application or {}).get("deployed_app_config") or {}
        wanted_uri = f"models:/{status.revision.model}/{status.revision.version}"
        if config.get("args", {}).get("model_uri", wanted_uri) != wanted_uri:
            # Serve still shows the previous revision, or it was deployed again from outside.
            if age <= SETTLE or host.redeploys:
                return HURRY if age <= SETTLE else self._deploy_again(obj)
            state = "NOT_STARTED"
        if state == "RUNNING":
            return self._ready(obj, spec, host_state.endpoint, status.revision)
        reason = _reason(application or {})
        if state in ("DEPLOY_FAILED", "UNHEALTHY"):
            return self._report(obj, "Failed", state, reason or f"Serve says {state}.", FOLLOW)
        if age > spec.startup_timeout:
            message = f"It does not run after {spec.startup_timeout:g} s. {reason}".strip()
            return self._report(obj, "Failed", "StartupTimeout", message, FOLLOW)
        return self._report(obj, "Deploying", "Deploying", reason or f"Serve says {state}.", POLL)

    def _await_nodes(self, obj: Service, spec: ServiceSpec, host_state: HostState, age: float) -> float:
        """Report that the service's own nodes are not ready; those that served before go on serving."""
        if host_state.failed:
            return self._report(obj, "Failed", host_state.reason, host_state.message, FOLLOW)
        if age > spec.startup_timeout:
            message = f"It does not serve {spec.startup_timeout:g} s after it was deployed. {host_state.message}"
            return self._report(obj, "Failed", host_state.reason, message, FOLLOW)
        return self._report(obj, "Deploying", host_state.reason, host_state.message, POLL)

    def _deploy_again(self, obj: Service) -> float:
        """Have the next look repeat the rollout, which Serve has lost."""
        with editing(self._platform.store, obj.metadata.uid, ServiceStatus) as new:
            new.incarnation = None
        return HURRY

    def _ready(self, obj: Service, spec: ServiceSpec, endpoint: Endpoint, revision: Revision) -> float:
        name = obj.metadata.name
        with editing(self._platform.store, obj.metadata.uid, ServiceStatus) as new:
            if new.phase != "Ready":
                log.info("service %s/%s is ready", obj.metadata.team, name)
                node = f"service:{name}#{revision.number}"
                source = f"model:{revision.model}/{revision.version}"
                self._platform.store.add_edges(obj.team, [Edge(source=source, target=node)])
            new.phase, new.url = "Ready", f"{(endpoint.serve_url or '').rstrip('/')}/{name}"
            new.endpoint = endpoint if spec.nodes is not None else None
            new.set_condition("Ready", True, "Running", "", obj.metadata.generation)
        return FOLLOW

    def _delete(self, obj: Service, host: Host) -> float | None:
        if not host.take_down():
            return self._report(obj, "Deleting", "Deleting", "The application is being taken down.", HURRY)
        self._platform.store.remove(obj.metadata.uid)
        return None

    def _report(self, obj: Service, phase: str, reason: str, message: str, again: float) -> float:
        with editing(self._platform.store, obj.metadata.uid, ServiceStatus) as status:
            status.phase = phase
            if phase != "Ready":
                status.set_condition("Ready", False, reason, message, obj.metadata.generation)
        return again


def _reason(application: dict[str, Any]) -> str:
    """The reason why an application is not running, from its own message and its deployments'."""
    messages = [str(application.get("message") or "")]
    for name, deployment in (application.get("deployments") or {}).items():
        if deployment.get("status") != "HEALTHY" and deployment.get("message"):
            messages.append(f"{name}: {deployment['message']}")
    return " ".join(filter(None, messages))[-2000:]
