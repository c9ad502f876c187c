"""The Kubernetes backend: clusters as RayClusters of KubeRay, teams as namespaces, with as few API calls as possible.

The backend writes everything by server-side apply under one field manager and reads from the watched cache: a cluster
at rest costs no call. The cache takes in each answer to a write at once, so that the next observation shows it. Pure
modules decide what to write and what an object means (raycluster.py, team.py, observation.py). This module puts the
parts together, and remembers the end of a head until the reconciler has handled it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from rayplane.errors import NotFound
from rayplane.gateway.backends.base import Capability, Node, capabilities_of
from rayplane.gateway.backends.kubernetes import observation, raycluster, rayjob, rayservice, settings
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.cache import Cache, OwnerKey
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
from rayplane.gateway.backends.kubernetes.owned_objects import Shared
from rayplane.gateway.backends.kubernetes.preflight.check import preflight
from rayplane.gateway.backends.kubernetes.services import Services
from rayplane.gateway.backends.kubernetes.team_namespaces import TeamNamespaces
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.environment import Environment
from rayplane.settings import GatewaySettings

log = logging.getLogger(__name__)

_DEFINITION_SECONDS = 600.0
"""Seconds after which a CustomResourceDefinition is read again."""
_MOST_GONE_NODES = 64
_GONE_FOR = timedelta(minutes=15)
"""The most nodes of one cluster that are remembered after their pods are gone, and for how long."""
_KINDS_BY_NAME = {kind.name: kind for kind in (RAYCLUSTER, RAYJOB, RAYSERVICE)}


class KubernetesBackend:
    """Clusters on Kubernetes. From the first call until ``close``, threads follow changes by watches."""

    name = "kubernetes"

    def __init__(self, gateway: GatewaySettings) -> None:
        self._settings = settings.load()
        self._root = gateway.root_uri
        self._tokens = gateway.home_paths.secrets / "clusters"
        self.api = KubeApi(self._settings.kubeconfig, timeout=self._settings.request_timeout)
        self._cache = Cache(self.api, patience=self._settings.watch_patience)
        self._cache.add(RAYCLUSTER, trim=raycluster.trim, on_change=self._on_cluster_change)
        self._cache.add(POD, trim=observation.trim_pod, on_change=self._on_pod_change)
        self._cache.add(RAYJOB, trim=rayjob.trim, on_change=self._on_change)
        self._cache.add(RAYSERVICE, trim=rayservice.trim, on_change=self._on_change)
        self.teams = TeamNamespaces(self.api, self._cache, self._settings, self._root, changed=self._announce)
        self._version = version("rayplane")
        self._lock = threading.Lock()
        self._definitions: dict[str, tuple[float, dict[str, Object]]] = {}
        self._head_failures: dict[OwnerKey, observation.HeadFailure] = {}
        self._gone_nodes: dict[OwnerKey, deque[Node]] = {}
        self._subscribers: list[Callable[[str], None]] = []
        shared = Shared(
            api=self.api,
            cache=self._cache,
            settings=self._settings,
            root=self._root,
            token_path=self._token_path,
            environment=self._environment,
            head_failure_of=self._head_failure_of,
            forget_head_failure=self._forget_head_failure,
            with_gone=self._with_gone,
            problems_of=self._problems_of,
        )
        self.clusters = Clusters(shared)
        self.jobs = Jobs(shared)
        self.services = Services(shared)
        self.capabilities = capabilities_of(
            frozenset(Capability), jobs=self.jobs, services=self.services, teams=self.teams
        )

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """The environment of the image, as the settings describe it."""
        return self._environment()

    def real_cores(self) -> int | None:
        """None: each pod has its own cores."""
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

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call ``changed`` with the uid of a cluster, job, service or team on each change of its objects."""
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

    def _problems_of(self, manifest: Object) -> list[str]:
        """Problems of an object that its CustomResourceDefinition or KubeRay would refuse, each with its remedy."""
        return preflight([manifest], self._definition(manifest["kind"]))

    def _definition(self, kind: str) -> dict[str, Object]:
        """A kind's CustomResourceDefinition, by its name; empty if none is installed.

        It is read again after a while: an admin may upgrade KubeRay at any time.
        """
        with self._lock:
            read_at, definitions = self._definitions.get(kind, (-_DEFINITION_SECONDS, {}))
        if time.monotonic() - read_at < _DEFINITION_SECONDS:
            return definitions
        try:
            definitions = {kind: self.api.get(DEFINITION, str(_KINDS_BY_NAME[kind]))}
        except NotFound:
            return {}
        with self._lock:
            self._definitions[kind] = (time.monotonic(), definitions)
        return definitions

    def _forget_head_failure(self, owner_key: OwnerKey) -> None:
        with self._lock:
            self._head_failures.pop(owner_key, None)

    def _head_failure_of(self, owner_key: OwnerKey) -> observation.HeadFailure | None:
        with self._lock:
            return self._head_failures.get(owner_key)

    def _with_gone(self, owner_key: OwnerKey, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        since = datetime.now(UTC) - _GONE_FOR
        with self._lock:
            recent = [
                node for node in self._gone_nodes.get(owner_key, ()) if node.ended_at is None or node.ended_at > since
            ]
        present = {node.id for node in nodes}
        return (*nodes, *(node for node in recent if node.id not in present))

    def _on_change(self, before: Object | None, after: Object | None) -> None:
        for obj in (before, after):
            if obj is not None:
                self._announce(obj["metadata"].get("labels", {}).get(UID, ""))
                return

    def _on_cluster_change(self, before: Object | None, after: Object | None) -> None:
        if observation.is_news(before, after):
            self._on_change(before, after)

    def _on_pod_change(self, before: Object | None, after: Object | None) -> None:
        pod = after or before
        assert pod is not None  # a change has at least one side
        uid = pod["metadata"]["labels"].get(UID, "")
        owner_key = OwnerKey(pod["metadata"]["namespace"], uid)
        if after is None:
            node = observation.node_of(pod, gone_at=datetime.now(UTC))
            if node is not None:
                self._remember_gone(owner_key, node)
        failure = observation.head_failure(before, after)
        if failure is not None and self._is_meant_to_run(owner_key):
            log.warning("%s: %s", failure.reason, failure.message)
            with self._lock:
                self._head_failures[owner_key] = failure
        self._announce(uid)

    def _remember_gone(self, owner_key: OwnerKey, node: Node) -> None:
        since = datetime.now(UTC) - _GONE_FOR
        with self._lock:
            expired = [key for key, nodes in self._gone_nodes.items() if (nodes[-1].ended_at or since) <= since]
            for key in expired:
                del self._gone_nodes[key]
            self._gone_nodes.setdefault(owner_key, deque(maxlen=_MOST_GONE_NODES)).append(node)

    def _is_meant_to_run(self, owner_key: OwnerKey) -> bool:
        """True if a head that ends is a failure: its cluster is neither suspended nor being deleted."""
        return any(
            not cluster["spec"]["suspend"] and not cluster["metadata"].get("deletionTimestamp")
            for cluster in self._cache[RAYCLUSTER].of(owner_key)
        )

    def _announce(self, uid: str) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for changed in subscribers:
            changed(uid)
