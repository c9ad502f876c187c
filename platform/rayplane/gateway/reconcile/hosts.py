"""What hosts a service: Serve of a cluster, beside its other services, or nodes of the service's own.

What differs between the two, and only that: whether it can be deployed on, how an application gets there, and how it is
taken down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from rayplane.errors import NotFound
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Backend, ServiceObservation, ServiceRef
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile import holdings, launch, renewal
from rayplane.gateway.reconcile.serve_config import application_of, configuration
from rayplane.gateway.usecases import nodes as own_nodes
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.nouns.base import Object, utcnow
from rayplane.nouns.cluster import ClusterStatus, Endpoint, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.service import ServiceSpec, ServiceStatus

log = logging.getLogger(__name__)

Rays = Callable[[Endpoint], RayRest]


@dataclass(frozen=True)
class Footing:
    """How it is about what hosts the service."""

    deployable: bool
    """Whether an application can be deployed now."""
    reason: str = ""
    message: str = ""
    """Why it can't, or why it does not serve yet."""
    failed: bool = False
    """Whether that will not change by itself."""
    incarnation: str | None = None
    """What applications are deployed on: on another one they are deployed anew."""
    endpoint: Endpoint | None = None
    """Where Serve is asked and answers; None while it can't be."""
    environment: Environment | None = None
    not_renewed: str = ""
    """Why it can't be given the newest secrets."""


class Host(Protocol):
    """What hosts one service, as one look finds it."""

    redeploys: bool
    """Whether an application that is lost is deployed anew by the reconciler, not by somebody else."""

    def footing(self) -> Footing:
        """How it is now."""
        ...

    def turn(self) -> AbstractContextManager[Any]:
        """Held from before an application is put until its revision is stored."""
        ...

    def put(self, version: str) -> None:
        """Have the service's application serve a version of its model. Raises InvalidInput where that is refused."""
        ...

    def take_down(self) -> bool:
        """Ask for the application to go, and what was made for it; whether nothing of it is left."""
        ...


class OnCluster:
    """Serve drops the applications that a configuration does not list: here is the one writer of all of a cluster's."""

    redeploys = True

    def __init__(self, obj: Object, spec: ServiceSpec, platform: Platform, rays: Rays, turn: threading.Lock) -> None:
        self._obj = obj
        self._spec = spec
        self._platform = platform
        self._rays = rays
        self._lock = turn
        self._cluster = self._find()

    def footing(self) -> Footing:
        """The cluster's head, once it is ready and serves."""
        cluster, name = self._cluster, self._spec.cluster
        if cluster is None:
            return Footing(False, "ClusterGone", f"Cluster '{name}' was deleted.", failed=True)
        if cluster.phase != "Ready" or cluster.endpoint is None:
            return Footing(False, "ClusterNotReady", f"Cluster '{name}' is {cluster.phase or 'Pending'}.")
        if cluster.endpoint.serve_url is None:
            return Footing(False, "ClusterNotReady", f"Cluster '{name}' is of a backend that serves nothing.")
        return Footing(
            True, incarnation=cluster.incarnation, endpoint=cluster.endpoint, environment=cluster.environment
        )

    def turn(self) -> AbstractContextManager[Any]:
        """A neighbour's rollout lists what it reads in the store."""
        return self._lock

    def put(self, version: str) -> None:
        """Replace the cluster's configuration by one that differs in this application alone."""
        mine = application_of(self._obj, self._spec, version, self._platform.storage)
        self._configure([*self._others(), mine])

    def take_down(self) -> bool:
        """Replace it by one without this application. On another head there is nothing to take down."""
        status = ServiceStatus.model_validate(self._obj.status)
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
        """The cluster's other applications as they are deployed: a rollout changes its own service alone."""
        kept = []
        for other in self._platform.store.each("Service", self._obj.metadata.team):
            if other.metadata.uid == self._obj.metadata.uid or other.metadata.deleted_at is not None:
                continue
            status = ServiceStatus.model_validate(other.status)
            revision = status.revision
            # What Serve refuses would have it refuse the whole configuration, with everybody else's rollout.
            if other.spec.get("cluster") != self._spec.cluster or revision is None or is_refused(status):
                continue
            try:
                other_spec = ServiceSpec.model_validate(other.spec)
                kept.append(application_of(other, other_spec, revision.version, self._platform.storage))
            except (NotFound, ValidationError) as exc:
                log.warning("service %s/%s is left out: %s", other.metadata.team, other.metadata.name, exc)
        return kept

    def _find(self) -> ClusterStatus | None:
        assert self._spec.cluster is not None
        try:
            cluster = self._platform.store.get("Cluster", self._obj.metadata.team or "", self._spec.cluster)
        except NotFound:
            return None
        return ClusterStatus.model_validate(cluster.status)


class OnOwnNodes:
    """Nodes that the backend keeps serving the one application; the ledger has a lease for each of them."""

    redeploys = False

    def __init__(
        self,
        obj: Object,
        spec: ServiceSpec,
        nodes: Nodes,
        platform: Platform,
        backends: Callable[[str], Backend],
        *,
        wake: Callable[[str], None],
    ) -> None:
        self._wake = wake
        self._obj = obj
        self._spec = spec
        self._nodes = nodes
        self._platform = platform
        team = obj.metadata.team or ""
        self._team = platform.store.get("Team", "", team)
        self._place = own_nodes.backend_of(nodes, team_spec(self._team))
        self._backend = backends(self._place)
        self._ref = ServiceRef(team=team, name=obj.metadata.name, uid=obj.metadata.uid)

    def footing(self) -> Footing:
        """Always to be deployed on once the team has its place: the nodes come with the application."""
        lacking = launch.team_lacks(self._platform, self._team, self._place, self._backend, self._wake)
        if lacking:
            return Footing(False, "TeamNotReady", lacking)
        seen = self._observe()
        if seen.phase == "stopping":
            return Footing(False, "NodesStopping", seen.message or "Nodes of an earlier time are being taken away.")
        return Footing(
            True,
            seen.reason or "NodesStarting",
            seen.message or "Its nodes are starting.",
            failed=seen.phase == "failed",
            # What is missing, or is not as it was asked for, is another thing than what was deployed.
            incarnation=None if seen.phase == "absent" or seen.drift else self._ref.uid,
            endpoint=seen.endpoint if seen.phase == "ready" else None,
            environment=seen.environment,
            not_renewed=renewal.renew(self._platform, self._backend, self._ref) if seen.phase == "ready" else "",
        )

    def turn(self) -> AbstractContextManager[Any]:
        """Nobody else deploys here."""
        return nullcontext()

    def put(self, version: str) -> None:
        """Ask for nodes that serve it; on nodes that are there, the application alone changes."""
        size = size_of(team_spec(self._team), self._nodes.size, team_name=self._ref.team, where="service.nodes.size")
        context = launch.context(self._platform, self._ref.team, self._ref.uid, size)
        wanted = application_of(self._obj, self._spec, version, self._platform.storage)
        self._backend.ensure_service(self._ref, self._nodes, wanted, context)

    def take_down(self) -> bool:
        """Delete its nodes, and wait until they are gone: the ledger then ends."""
        seen = self._observe()
        if seen.phase not in ("absent", "stopping"):
            self._backend.delete_service(self._ref)
            seen = self._observe()
        return seen.phase == "absent"

    def _observe(self) -> ServiceObservation:
        seen = self._backend.observe_service(self._ref)
        holdings.keep(self._platform.store, self._ref, seen.nodes, utcnow())
        return seen


def is_refused(status: ServiceStatus) -> bool:
    """Whether the service's last rollout was taken for no valid application."""
    ready = status.condition("Ready")
    return status.phase == "Failed" and ready is not None and ready.reason == "Refused"
