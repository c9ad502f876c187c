"""Clusters as RayClusters of KubeRay, and teams as namespaces: what the reconciler asks, turned into few calls.

Everything is written by server-side apply under one field manager and read from the watched cache: a cluster at rest
costs no call. What is written is learned at once, so that the next look sees it. What to write, and what is seen, is
decided in pure modules (raycluster.py, team.py, observation.py). Here the parts are put together, and what changed is
remembered until somebody has dealt with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rayplane.errors import NotFound
from rayplane.gateway.backends.base import (
    Capability,
    ClusterRef,
    Evidence,
    JobObservation,
    JobRef,
    LaunchContext,
    Node,
    Observation,
    ServiceObservation,
    ServiceRef,
    Submission,
    TeamRef,
)
from rayplane.gateway.backends.kubernetes import (
    facts,
    observation,
    raycluster,
    rayjob,
    rayservice,
    settings,
)
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.cache import Cache, Whose
from rayplane.gateway.backends.kubernetes.clusters import Clusters
from rayplane.gateway.backends.kubernetes.jobs import Jobs
from rayplane.gateway.backends.kubernetes.kinds import (
    DEFINITION,
    POD,
    RAYCLUSTER,
    RAYJOB,
    RAYSERVICE,
    UID,
    Object,
)
from rayplane.gateway.backends.kubernetes.own import Shared
from rayplane.gateway.backends.kubernetes.place import Places
from rayplane.gateway.backends.kubernetes.preflight.check import preflight
from rayplane.gateway.backends.kubernetes.services import Services
from rayplane.nouns.cluster import ClusterSpec, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import JobSpec
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import Size, TeamSpec
from rayplane.settings import GatewaySettings

log = logging.getLogger(__name__)

_DEFINITION_HOLDS = 600.0
"""Seconds for which a definition that was read counts."""
_GONE_NODES = 64
_GONE_FOR = timedelta(minutes=15)
"""How many nodes of a cluster that gave their place back are remembered, and for how long."""
_CHECKED = {kind.name: kind for kind in (RAYCLUSTER, RAYJOB, RAYSERVICE)}


class KubernetesBackend:
    """Clusters on Kubernetes. Threads follow what changes from the first call on, until ``close``."""

    name = "kubernetes"
    capabilities: frozenset[Capability] = frozenset(Capability)

    def __init__(self, gateway: GatewaySettings) -> None:
        self._settings = settings.load()
        self._root = gateway.root_uri
        self._tokens = gateway.home_paths.secrets / "clusters"
        self.api = KubeApi(self._settings.kubeconfig, timeout=self._settings.request_timeout)
        self._cache = Cache(self.api, patience=self._settings.watch_patience)
        self._cache.add(RAYCLUSTER, trim=raycluster.trim, told=self._told_cluster)
        self._cache.add(POD, trim=observation.trim_pod, told=self._told_pod)
        self._cache.add(RAYJOB, trim=rayjob.trim, told=self._told)
        self._cache.add(RAYSERVICE, trim=rayservice.trim, told=self._told)
        self._places = Places(self.api, self._cache, self._settings, self._root, changed=self._announce)
        self._version = version("rayplane")
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, dict[str, Object]]] = {}
        self._falls: dict[Whose, observation.Fall] = {}
        self._gone: dict[Whose, deque[Node]] = {}
        self._subscribers: list[Callable[[str], None]] = []
        shared = Shared(
            api=self.api,
            cache=self._cache,
            settings=self._settings,
            root=self._root,
            token_path=self._token_path,
            environment=self._environment,
            fall_of=self._fall_of,
            forgive=self._forgive,
            with_gone=self._with_gone,
            wrong=self._wrong,
        )
        self._clusters = Clusters(shared)
        self._jobs = Jobs(shared)
        self._services = Services(shared)

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """What Kubernetes would refuse, or accept and never start."""
        return self._clusters.preflight(ref, spec, size)

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """The image's, as the settings tell it."""
        return self._environment()

    def real_cores(self) -> int | None:
        """Each pod has its own."""
        return None

    def _token_path(self, key: str) -> Path:
        return self._tokens / f"{key}.ray"

    def _environment(self) -> Environment:
        return Environment(
            interpreter=self._settings.image,
            ray=self._settings.ray_version,
            python=self._settings.python_version,
            lock_hash=self._settings.lock_hash,
            rayplane=self._version,
        )

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """What the watch told last. Raises Unavailable once that is too old to count."""
        return self._clusters.observe(ref)

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """Asked for anew: a person wants to know, and what is held is no more than what reconciling needs."""
        return facts.gather(self.api, self._settings, ref, token_path=self._token_path)

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Apply its RayCluster if it is missing, drifted, suspended, or asked for otherwise."""
        self._clusters.ensure(ref, spec, launch)

    def renew(self, ref: ClusterRef | JobRef | ServiceRef, secrets: Mapping[str, str]) -> None:
        """Change its Secret where it holds others: the kubelets bring that to the pods that mount it, in a minute or
        two. Without a call to the API server if it has them."""
        if isinstance(ref, ClusterRef):
            self._clusters.renew(ref, secrets)
        elif isinstance(ref, JobRef):
            self._jobs.renew(ref, secrets)
        else:
            self._services.renew(ref, secrets)

    def suspend(self, ref: ClusterRef, spec: ClusterSpec) -> None:
        """Have KubeRay take all of its pods down; the RayCluster stays."""
        self._clusters.suspend(ref)

    def delete(self, ref: ClusterRef) -> None:
        """Delete its RayCluster, which is gone only when all that belongs to it is."""
        self._clusters.delete(ref)

    def preflight_job(self, ref: JobRef, spec: JobSpec, size: Size) -> list[str]:
        """What KubeRay would refuse of a RayJob, or accept and not act on."""
        return self._jobs.preflight(ref, spec, size)

    def ensure_job(self, ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext) -> None:
        """Apply the attempt's RayJob, once."""
        self._jobs.ensure(ref, nodes, submission, launch)

    def observe_job(self, ref: JobRef) -> JobObservation:
        """What the watch told last of its RayJob and that one's cluster. Raises Unavailable once that is too old."""
        return self._jobs.observe(ref)

    def delete_job(self, ref: JobRef) -> None:
        """Delete the attempt's RayJob, which is gone only when all that belongs to it is."""
        self._jobs.delete(ref)

    def preflight_service(self, ref: ServiceRef, spec: ServiceSpec, size: Size) -> list[str]:
        """What KubeRay would refuse of a RayService."""
        return self._services.preflight(ref, spec, size)

    def ensure_service(
        self, ref: ServiceRef, nodes: Nodes, application: Mapping[str, Any], launch: LaunchContext
    ) -> None:
        """Apply the service's RayService if it is missing, drifted, or asked for otherwise."""
        self._services.ensure(ref, nodes, application, launch)

    def observe_service(self, ref: ServiceRef) -> ServiceObservation:
        """What the watch told last of its RayService and its clusters. Raises Unavailable once that is too old."""
        return self._services.observe(ref)

    def delete_service(self, ref: ServiceRef) -> None:
        """Delete the service's RayService, which is gone only when all that belongs to it is."""
        self._services.delete(ref)

    def ensure_team(self, team: TeamRef, spec: TeamSpec) -> str:
        """Its namespace, with all that belongs into it."""
        return self._places.ensure(team, spec)

    def delete_team(self, team: TeamRef) -> str:
        """Its namespace, and what it has outside of it."""
        return self._places.delete(team)

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Tell of clusters, jobs and services, and of teams whose place somebody changed; begins to follow them."""
        with self._lock:
            self._subscribers.append(changed)
        for kind in (RAYCLUSTER, RAYJOB, RAYSERVICE, POD):
            self._cache[kind].start()

    def close(self) -> None:
        """End the watches and close the connections."""
        with self._lock:
            self._subscribers.clear()
        self._cache.stop()
        self.api.interrupt()
        self._cache.close()
        self.api.close()

    def _wrong(self, manifest: Object) -> list[str]:
        """What is wrong with an object for its definition, and for KubeRay."""
        return preflight([manifest], self._definition(manifest["kind"]))

    def _definition(self, kind: str) -> dict[str, Object]:
        """A kind's definition, read anew when it is old: KubeRay may be upgraded at any time. Empty without any."""
        with self._lock:
            read_at, known = self._known.get(kind, (-_DEFINITION_HOLDS, {}))
        if time.monotonic() - read_at < _DEFINITION_HOLDS:
            return known
        try:
            known = {kind: self.api.get(DEFINITION, str(_CHECKED[kind]))}
        except NotFound:
            return {}
        with self._lock:
            self._known[kind] = (time.monotonic(), known)
        return known

    def _forgive(self, whose: Whose) -> None:
        with self._lock:
            self._falls.pop(whose, None)

    def _fall_of(self, whose: Whose) -> observation.Fall | None:
        with self._lock:
            return self._falls.get(whose)

    def _with_gone(self, whose: Whose, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        after = datetime.now(UTC) - _GONE_FOR
        with self._lock:
            gone = [node for node in self._gone.get(whose, ()) if node.ended_at is None or node.ended_at > after]
        here = {node.id for node in nodes}
        return (*nodes, *(node for node in gone if node.id not in here))

    def _told(self, before: Object | None, after: Object | None) -> None:
        for obj in (before, after):
            if obj is not None:
                self._announce(obj["metadata"].get("labels", {}).get(UID, ""))
                return

    def _told_cluster(self, before: Object | None, after: Object | None) -> None:
        if observation.is_news(before, after):
            self._told(before, after)

    def _told_pod(self, before: Object | None, after: Object | None) -> None:
        pod = after or before
        assert pod is not None  # a change has at least one side
        uid = pod["metadata"]["labels"].get(UID, "")
        whose = Whose(pod["metadata"]["namespace"], uid)
        if after is None:
            node = observation.node_of(pod, gone_at=datetime.now(UTC))
            if node is not None:
                self._note_gone(whose, node)
        fall = observation.fell(before, after)
        if fall is not None and self._is_meant_to_run(whose):
            log.warning("%s: %s", fall.reason, fall.message)
            with self._lock:
                self._falls[whose] = fall
        self._announce(uid)

    def _note_gone(self, whose: Whose, node: Node) -> None:
        after = datetime.now(UTC) - _GONE_FOR
        with self._lock:
            old = [key for key, nodes in self._gone.items() if (nodes[-1].ended_at or after) <= after]
            for key in old:
                del self._gone[key]
            self._gone.setdefault(whose, deque(maxlen=_GONE_NODES)).append(node)

    def _is_meant_to_run(self, whose: Whose) -> bool:
        """Whether the end of a head is a fault, and not what suspension or deletion brings."""
        return any(
            not cluster["spec"]["suspend"] and not cluster["metadata"].get("deletionTimestamp")
            for cluster in self._cache[RAYCLUSTER].of(whose)
        )

    def _announce(self, uid: str) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for changed in subscribers:
            changed(uid)
