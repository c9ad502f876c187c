"""Clusters as RayClusters of KubeRay, and teams as namespaces: what the reconciler asks, turned into few calls.

Everything is written by server-side apply under one field manager and read from the watched cache: a cluster at rest
costs no call. What is written is learned at once, so that the next look sees it. What to write, and what is seen, is
decided in pure modules (raycluster.py, team.py, observation.py).
"""

from __future__ import annotations

import base64
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rayplane.errors import Conflict, NotFound, Unavailable
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
    compare,
    facts,
    observation,
    pods,
    raycluster,
    rayjob,
    rayservice,
    settings,
)
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.cache import Cache
from rayplane.gateway.backends.kubernetes.jobs import Jobs
from rayplane.gateway.backends.kubernetes.kinds import (
    DEFINITION,
    POD,
    RAYCLUSTER,
    RAYJOB,
    RAYSERVICE,
    SECRET,
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
from rayplane.settings import GatewaySettings, read_secret, write_secret

log = logging.getLogger(__name__)

_DEFINITION_HOLDS = 600.0
"""Seconds for which a definition that was read counts."""
_ATTEMPTS = 4
"""How often a change is tried while others change the same object."""
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
        self._cache.add(RAYCLUSTER, trim=raycluster.trim, told=self._told)
        self._cache.add(POD, trim=observation.trim_pod, told=self._told_pod)
        self._cache.add(RAYJOB, trim=rayjob.trim, told=self._told)
        self._cache.add(RAYSERVICE, trim=rayservice.trim, told=self._told)
        self._places = Places(self.api, self._cache, self._settings, self._root)
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, dict[str, Object]]] = {}
        self._falls: dict[str, observation.Fall] = {}
        self._gone: dict[str, deque[Node]] = {}
        self._subscribers: list[Callable[[str], None]] = []
        shared = Shared(
            api=self.api,
            cache=self._cache,
            settings=self._settings,
            root=self._root,
            tokens=self._tokens,
            environment=self._environment,
            fall_of=self._fall_of,
            forgive=self._forgive,
            with_gone=self._with_gone,
            wrong=self._wrong,
        )
        self._jobs = Jobs(shared)
        self._services = Services(shared)

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """What Kubernetes would refuse, or accept and never start."""
        if not ref.name[0].isalpha():
            return [f"The name '{ref.name}' begins with a digit, a RayCluster's can't. Choose another name."]
        manifest = raycluster.render(ref, spec, LaunchContext(size=size), self._settings, self._root)
        return self._wrong(manifest)

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """The image's, as the settings tell it."""
        return self._environment()

    def _environment(self) -> Environment:
        return Environment(
            interpreter=self._settings.image,
            ray=self._settings.ray_version,
            python=self._settings.python_version,
            lock_hash=self._settings.lock_hash,
            rayplane=version("rayplane"),
        )

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """What the watch told last. Raises Unavailable once that is too old to count."""
        self._cache.require(RAYCLUSTER, POD)
        cluster, held = self._held(ref), self._cache[POD].of(ref.uid)
        with self._lock:
            fall = self._falls.get(ref.uid)
        seen = observation.look(cluster, held, fall)
        fields = {**vars(seen), "nodes": self._with_gone(ref.uid, seen.nodes)}
        if seen.phase != "ready":
            return Observation(**fields)
        token = self._token_path(ref)
        if not token.exists() and not self._fetch_token(ref, token):
            drift = f"Secret '{raycluster.secret_name(ref.name)}': missing"
            return Observation(
                **{**fields, "phase": "starting", "reason": "NoSecret", "message": drift, "drift": drift}
            )
        fields["endpoint"] = observation.endpoint(held, str(token))
        return Observation(**{**fields, "environment": self.environment(spec)})

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """Asked for anew: a person wants to know, and what is held is no more than what reconciling needs."""
        return facts.gather(self.api, self._settings, ref, token=self._token_path(ref))

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Apply it if it is missing, drifted, suspended, or asked for otherwise. A head that died KubeRay replaces."""
        self._cache.require(RAYCLUSTER, POD)
        self._forgive(ref.uid)
        self._apply(ref, spec, launch, suspended=False)

    def suspend(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Have KubeRay take all of its pods down; the RayCluster stays."""
        self._cache.require(RAYCLUSTER, POD)
        self._forgive(ref.uid)
        if self._held(ref) is not None:
            self._apply(ref, spec, launch, suspended=True)

    def delete(self, ref: ClusterRef) -> None:
        """Delete the RayCluster, which is gone only when all that belongs to it is."""
        self._cache.require(RAYCLUSTER, POD)
        self._forgive(ref.uid)
        self._token_path(ref).unlink(missing_ok=True)
        held = self._held(ref)
        if held is not None:
            self._delete(held)
        with self._lock:
            self._gone.pop(ref.uid, None)

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
        """Tell of clusters; begins to follow them."""
        with self._lock:
            self._subscribers.append(changed)
        for kind in (RAYCLUSTER, RAYJOB, RAYSERVICE, POD):
            self._cache[kind].start()

    def close(self) -> None:
        """End the watches and close the connections."""
        with self._lock:
            self._subscribers.clear()
        self._cache.stop()
        self.api.close()
        self._cache.close()

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

    def _apply(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext, *, suspended: bool) -> None:
        namespace = self._settings.namespace(ref.team)
        there = self._cache[RAYCLUSTER].get(namespace, ref.name)
        if there is not None and there["metadata"].get("deletionTimestamp"):
            return  # it must be gone before another takes its name
        if there is not None and not raycluster.is_of(there, ref):
            self._delete(there)
            return
        manifest = raycluster.render(ref, spec, launch, self._settings, self._root, suspended=suspended)
        current = there
        if there is None or there["drift"] or not _same(there, manifest, raycluster.ASKED_HASH):
            log.info("cluster %s is applied: %s", ref, there["drift"] or "it is changed" if there else "it is missing")
            answer = self._create(ref, manifest) if there is None else self._change(ref, manifest, suspended=suspended)
            self._cache[RAYCLUSTER].learn(answer)
            current = raycluster.trim(answer)
        assert current is not None  # it was there, or was made
        self._put_secrets(ref, launch, current, new=there is None)

    def _create(self, ref: ClusterRef, manifest: Object) -> Object:
        try:
            # Not by force: whoever made one of that name by hand keeps it.
            return self.api.apply(RAYCLUSTER, manifest, force=False)
        except NotFound as exc:
            raise Unavailable(
                f"The namespace of cluster '{ref}' is not there: {exc.detail}",
                remedy="It is made when the team is onboarded.",
            ) from exc

    def _change(self, ref: ClusterRef, manifest: Object, *, suspended: bool) -> Object:
        """Apply it over what is there. Where workers stay, so does their number, which is the autoscaler's."""
        if suspended:
            return self.api.apply(RAYCLUSTER, manifest)
        for _ in range(_ATTEMPTS - 1):
            with suppress(Conflict):
                return self._change_once(ref, manifest)
        return self._change_once(ref, manifest)

    def _change_once(self, ref: ClusterRef, manifest: Object) -> Object:
        # Its version changes with its status, faster than a watch tells.
        now = self.api.get(RAYCLUSTER, ref.name, manifest["metadata"]["namespace"])
        if not raycluster.is_of(now, ref) or now["metadata"].get("deletionTimestamp"):
            raise Conflict(f"The RayCluster of '{ref}' is being replaced.", remedy="Look again, and repeat.")
        return self.api.apply(RAYCLUSTER, raycluster.keeping_scale(manifest, now))

    def _put_secrets(self, ref: ClusterRef, launch: LaunchContext, cluster: Object, *, new: bool) -> None:
        """Give a RayCluster its Secret, and note on it that it has it: what is not noted is put right later."""
        texts = dict(launch.secrets)
        if self._settings.redis_password_path is not None:
            texts[raycluster.REDIS_PASSWORD] = read_secret(self._settings.redis_password_path)
        noted = {raycluster.SECRETS_HASH: compare.digest(texts)}
        if cluster["metadata"]["annotations"].get(raycluster.SECRETS_HASH) == noted[raycluster.SECRETS_HASH]:
            return
        namespace = cluster["metadata"]["namespace"]
        token = None if new else self._read_token(ref)  # one that its pods know already stays
        texts[pods.AUTH_TOKEN] = token or secrets.token_urlsafe(32)
        self.api.apply(SECRET, raycluster.secret(ref, namespace, texts, cluster))
        write_secret(self._token_path(ref), texts[pods.AUTH_TOKEN])
        answer = self.api.merge(RAYCLUSTER, ref.name, namespace, {"metadata": {"annotations": noted}})
        self._cache[RAYCLUSTER].learn(answer)

    def _delete(self, cluster: Object) -> None:
        meta = cluster["metadata"]
        if meta.get("deletionTimestamp"):
            return
        # In the foreground the RayCluster outlives all that belongs to it. KubeRay's own finalizer, which empties
        # Redis, needs a job that would be taken away so: there that finalizer waits for the pods.
        self.api.delete(
            RAYCLUSTER,
            meta["name"],
            meta["namespace"],
            uid=meta["uid"],
            propagation="Background" if cluster["spec"]["gcsFaultTolerance"] else "Foreground",
        )
        self._cache[RAYCLUSTER].learn_deletion(cluster)

    def _held(self, ref: ClusterRef) -> Object | None:
        """The cluster's own RayCluster, not one of a predecessor's."""
        there = self._cache[RAYCLUSTER].get(self._settings.namespace(ref.team), ref.name)
        return there if there is not None and raycluster.is_of(there, ref) else None

    def _forgive(self, uid: str) -> None:
        with self._lock:
            self._falls.pop(uid, None)

    def _fall_of(self, uid: str) -> observation.Fall | None:
        with self._lock:
            return self._falls.get(uid)

    def _token_path(self, ref: ClusterRef) -> Path:
        return self._tokens / f"{ref.uid}.ray"

    def _read_token(self, ref: ClusterRef) -> str | None:
        try:
            found = self.api.get(SECRET, raycluster.secret_name(ref.name), self._settings.namespace(ref.team))
        except NotFound:
            return None
        if not raycluster.is_of(found, ref):
            return None
        return base64.b64decode(found.get("data", {}).get(pods.AUTH_TOKEN, "")).decode() or None

    def _fetch_token(self, ref: ClusterRef, path: Path) -> bool:
        """Write the file with Ray's token anew, where another gateway had made the cluster; whether there is one."""
        token = self._read_token(ref)
        if token is not None:
            write_secret(path, token)
        return token is not None

    def _with_gone(self, uid: str, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        after = datetime.now(UTC) - _GONE_FOR
        with self._lock:
            gone = [node for node in self._gone.get(uid, ()) if node.ended_at is None or node.ended_at > after]
        here = {node.id for node in nodes}
        return (*nodes, *(node for node in gone if node.id not in here))

    def _told(self, before: Object | None, after: Object | None) -> None:
        for obj in (before, after):
            if obj is not None:
                self._announce(obj["metadata"].get("labels", {}).get(UID, ""))
                return

    def _told_pod(self, before: Object | None, after: Object | None) -> None:
        pod = after or before
        assert pod is not None  # a change has at least one side
        uid = pod["metadata"]["labels"].get(UID, "")
        if after is None:
            node = observation.node_of(pod, gone_at=datetime.now(UTC))
            if node is not None:
                self._note_gone(uid, node)
        fall = observation.fell(before, after)
        if fall is not None and self._is_meant_to_run(pod, uid):
            log.warning("%s: %s", fall.reason, fall.message)
            with self._lock:
                self._falls[uid] = fall
        self._announce(uid)

    def _note_gone(self, uid: str, node: Node) -> None:
        after = datetime.now(UTC) - _GONE_FOR
        with self._lock:
            old = [key for key, nodes in self._gone.items() if (nodes[-1].ended_at or after) <= after]
            for key in old:
                del self._gone[key]
            self._gone.setdefault(uid, deque(maxlen=_GONE_NODES)).append(node)

    def _is_meant_to_run(self, pod: Object, uid: str) -> bool:
        """Whether the end of a head is a fault, and not what suspension or deletion brings."""
        return any(
            not cluster["spec"]["suspend"] and not cluster["metadata"].get("deletionTimestamp")
            for cluster in self._cache[RAYCLUSTER].of(uid)
        )

    def _announce(self, uid: str) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for changed in subscribers:
            changed(uid)


def _same(there: Object, manifest: Object, annotation: str) -> bool:
    mine: str = manifest["metadata"]["annotations"][annotation]
    return bool(there["metadata"]["annotations"].get(annotation) == mine)
