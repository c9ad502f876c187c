"""Hosts of a service: a cluster's Serve, shared with other services, or nodes of the service's own.

This module has all that differs between the two: whether an application can be deployed now, how it is deployed, and
how it is taken down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from rayplane.errors import InvalidSpec, NotFound
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Backend, ServiceBackend, ServiceObservation, ServiceRef, services_of
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile import holdings, launch, renewal
from rayplane.gateway.reconcile.serve_config import application_of, configuration
from rayplane.gateway.store.typed import Service, Team
from rayplane.gateway.usecases import nodes as own_nodes
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import CLUSTER, SERVICE, TEAM
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import ClusterStatus, Endpoint, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.service import ServiceSpec, ServiceStatus

log = logging.getLogger(__name__)

Rays = Callable[[Endpoint], RayRest]


@dataclass(frozen=True)
class HostState:
    """The state of a service's host."""

    deployable: bool
    """True if an application can be deployed now."""
    reason: str = ""
    message: str = ""
    """The reason why it can't be deployed, or does not serve yet."""
    failed: bool = False
    """True if that will not change by itself."""
    incarnation: str | None = None
    """Identity of what runs the application; it is deployed again whenever this changes."""
    endpoint: Endpoint | None = None
    """The endpoint of Serve; None while Serve can't be reached."""
    environment: Environment | None = None
    not_renewed: str = ""
    """The reason why the newest secrets can't be put there; empty if they were."""


class Host(Protocol):
    """The host of one service during one look."""

    redeploys: bool
    """True if the reconciler redeploys a lost application; on own nodes KubeRay does."""

    def state(self) -> HostState:
        """Observe the host's state."""
        ...

    def lock(self) -> AbstractContextManager[Any]:
        """A lock to hold from before the deployment until its revision is stored."""
        ...

    def deploy(self, version: str) -> None:
        """Deploy the service's application with a version of its model. Raises InvalidInput if it is refused."""
        ...

    def take_down(self) -> bool:
        """Ask for deletion of the application and of its nodes; True once nothing is left."""
        ...


class OnCluster:
    """A cluster's Serve. Only this class writes its configuration: Serve drops applications that one does not list."""

    redeploys = True

    def __init__(
        self,
        obj: Service,
        spec: ServiceSpec,
        platform: Platform,
        rays: Rays,
        lock: threading.Lock,
        *,
        cluster: ClusterStatus | None,
    ) -> None:
        self._obj = obj
        self._spec = spec
        self._platform = platform
        self._rays = rays
        self._lock = lock
        self._cluster = cluster

    @classmethod
    def read(cls, obj: Service, spec: ServiceSpec, platform: Platform, rays: Rays, lock: threading.Lock) -> OnCluster:
        """Read the state of the service's cluster from the store, for one look."""
        assert spec.cluster is not None
        cluster = platform.store.get_or_none(CLUSTER, obj.team, spec.cluster)
        status = None if cluster is None else cluster.status
        return cls(obj, spec, platform, rays, lock, cluster=status)

    def state(self) -> HostState:
        """Deployable once the cluster is ready and has a Serve address."""
        cluster, name = self._cluster, self._spec.cluster
        if cluster is None:
            return HostState(False, "ClusterGone", f"Cluster '{name}' was deleted.", failed=True)
        if cluster.phase != "Ready" or cluster.endpoint is None:
            return HostState(False, "ClusterNotReady", f"Cluster '{name}' is {cluster.phase or 'Pending'}.")
        if cluster.endpoint.serve_url is None:
            return HostState(False, "ClusterNotReady", f"Cluster '{name}' is on a backend that can't serve.")
        return HostState(
            True, incarnation=cluster.incarnation, endpoint=cluster.endpoint, environment=cluster.environment
        )

    def lock(self) -> AbstractContextManager[Any]:
        """The cluster's lock: each rollout lists the other services' applications from the store."""
        return self._lock

    def deploy(self, version: str) -> None:
        """Replace Serve's configuration by one that differs in this application alone."""
        mine = application_of(self._obj, self._spec, version, self._platform.storage)
        self._configure([*self._others(), mine])

    def take_down(self) -> bool:
        """Replace Serve's configuration by one without this application; nothing to do on another head."""
        status = self._obj.status
        cluster = self._cluster
        there = cluster is not None and cluster.endpoint is not None and cluster.incarnation == status.incarnation
        if not there or status.revision is None:
            return True
        assert cluster is not None
        assert cluster.endpoint is not None
        if self._obj.metadata.name not in self._rays(cluster.endpoint).serve_status().get("applications", {}):
            return True
        if status.phase != "Deleting":
            with self._lock:
                self._configure(self._others())
        return False

    def _configure(self, applications: list[dict[str, Any]]) -> None:
        assert self._cluster is not None
        assert self._cluster.endpoint is not None
        self._rays(self._cluster.endpoint).put_serve(configuration(self._cluster.endpoint, applications))

    def _others(self) -> list[dict[str, Any]]:
        """The cluster's other applications as they are deployed: a rollout changes only its own service."""
        applications = []
        for other in self._platform.store.each(SERVICE, self._obj.metadata.team):
            if other.metadata.uid == self._obj.metadata.uid or other.metadata.deleted_at is not None:
                continue
            status = other.status
            revision = status.revision
            # For one invalid application Serve would refuse the whole configuration, and so every other rollout.
            if other.spec.cluster != self._spec.cluster or revision is None or is_refused(status):
                continue
            try:
                applications.append(application_of(other, other.valid_spec(), revision.version, self._platform.storage))
            except (NotFound, InvalidSpec) as exc:
                log.warning("service %s/%s is left out: %s", other.metadata.team, other.metadata.name, exc)
        return applications


class OnOwnNodes:
    """Nodes on which the backend keeps this one application serving; the ledger has a lease for each of them."""

    redeploys = False

    def __init__(
        self,
        obj: Service,
        spec: ServiceSpec,
        nodes: Nodes,
        platform: Platform,
        backends: Callable[[str], Backend],
        *,
        team: Team,
        wake: Callable[[str], None],
    ) -> None:
        self._wake = wake
        self._obj = obj
        self._spec = spec
        self._nodes = nodes
        self._platform = platform
        self._team = team
        self._backend_name = own_nodes.backend_of(nodes, team.spec)
        self._backend = backends(self._backend_name)
        self._ref = ServiceRef(team=obj.team, name=obj.metadata.name, uid=obj.metadata.uid)

    @classmethod
    def read(
        cls,
        obj: Service,
        spec: ServiceSpec,
        nodes: Nodes,
        platform: Platform,
        backends: Callable[[str], Backend],
        *,
        wake: Callable[[str], None],
    ) -> OnOwnNodes:
        """Read the service's team from the store, for one look."""
        team = platform.store.get(TEAM, "", obj.team)
        return cls(obj, spec, nodes, platform, backends, team=team, wake=wake)

    def state(self) -> HostState:
        """Deployable once the team is set up on the backend: the nodes are created with the application."""
        lacking = launch.team_lacks(self._platform, self._team, self._backend_name, self._backend, self._wake)
        if lacking:
            return HostState(False, "TeamNotReady", lacking)
        observed = self._observe()
        if observed.phase == "stopping":
            return HostState(False, "NodesStopping", observed.message or "Its earlier nodes are being removed.")
        return HostState(
            True,
            observed.reason or "NodesStarting",
            observed.message or "Its nodes are starting.",
            failed=observed.phase == "failed",
            # Absent or drifted nodes are not those of the last deployment: it is then repeated.
            incarnation=None if observed.phase == "absent" or observed.drift else self._ref.uid,
            endpoint=observed.endpoint if observed.phase == "ready" else None,
            environment=observed.environment,
            not_renewed=renewal.renew(self._platform, self._services(), self._ref) if observed.phase == "ready" else "",
        )

    def lock(self) -> AbstractContextManager[Any]:
        """No lock: no other service deploys to these nodes."""
        return nullcontext()

    def deploy(self, version: str) -> None:
        """Ask for nodes that serve the version; on existing nodes only the application changes."""
        size = size_of(self._team.spec, self._nodes.size, team_name=self._ref.team, where="service.nodes.size")
        context = launch.context(self._platform, self._ref.team, self._ref.uid, size)
        wanted = application_of(self._obj, self._spec, version, self._platform.storage)
        self._services().ensure(self._ref, self._nodes, wanted, context)

    def take_down(self) -> bool:
        """Delete the service's nodes; True once they are gone and their leases have ended."""
        observed = self._observe()
        if observed.phase not in ("absent", "stopping"):
            self._services().delete(self._ref)
            observed = self._observe()
        return observed.phase == "absent"

    def _observe(self) -> ServiceObservation:
        observed = self._services().observe(self._ref)
        holdings.keep(self._platform.store, self._ref, observed.nodes, utcnow())
        return observed

    def _services(self) -> ServiceBackend:
        return services_of(self._backend, self._ref)


def is_refused(status: ServiceStatus) -> bool:
    """True if Serve refused the service's last rollout as invalid."""
    ready = status.condition("Ready")
    return status.phase == "Failed" and ready is not None and ready.reason == "Refused"
