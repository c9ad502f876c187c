"""Clusters as RayClusters: the reconciler's requests as few API calls. A cluster at rest costs no call."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rayplane.errors import Conflict
from rayplane.gateway.backends.base import ClusterRef, Evidence, LaunchContext, Observation
from rayplane.gateway.backends.kubernetes import observation, owned_objects, pods, raycluster
from rayplane.gateway.backends.kubernetes.kinds import POD, RAYCLUSTER, Object
from rayplane.gateway.backends.kubernetes.owned_objects import Shared
from rayplane.gateway.backends.kubernetes.pods import Owner
from rayplane.gateway.backends.kubernetes.raycluster import SECRETS_HASH
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.team import Size

log = logging.getLogger(__name__)

KINDS = (RAYCLUSTER, POD)

_ATTEMPTS = 4
"""The most tries of a change while other writers change the same object."""


class Clusters:
    """The platform's RayClusters. Thread-safe as long as no two threads act on one cluster."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """Problems for which KubeRay would refuse the RayCluster, or accept it and never start it."""
        shared = self._shared
        if not ref.name[0].isalpha():
            return [f"The name '{ref.name}' begins with a digit, a RayCluster's can't. Choose another name."]
        manifest = raycluster.render(ref, spec, LaunchContext(size=size), shared.settings, shared.root)
        return [*pods.refusals(size), *shared.problems_of(manifest)]

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """The cluster's state as the watch last reported it. Raises Unavailable once that is too old to rely on."""
        shared = self._shared
        shared.cache.require(*KINDS)
        owner_key = shared.owner_key(ref)
        cluster_pods = shared.cache[POD].of(owner_key)
        state = observation.look(self._own_raycluster(ref), cluster_pods, shared.head_failure_of(owner_key))
        fields = {**vars(state), "nodes": shared.with_gone(owner_key, state.nodes)}
        if state.phase != "ready":
            return Observation(**fields)
        owner = raycluster.owner_of(ref)
        endpoint = owned_objects.endpoint_of(shared, cluster_pods, self._token(ref), owner, owner_key.namespace)
        if endpoint is None:
            lost = f"Secret '{owner.secret}': missing"
            return Observation(**{**fields, "phase": "starting", "reason": "NoSecret", "message": lost, "drift": lost})
        return Observation(**{**fields, "endpoint": endpoint, "environment": shared.environment()})

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """Evidence about its pods and its RayCluster, read from the API server now."""
        return self._shared.evidence(ref)

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Apply the RayCluster if it is missing, has drifted, is suspended, or differs from the spec.

        KubeRay itself replaces a head that died.
        """
        self._shared.cache.require(*KINDS)
        self._shared.forget_head_failure(self._shared.owner_key(ref))
        self._apply(ref, spec, launch)

    def renew(self, ref: ClusterRef, secrets: Mapping[str, str]) -> None:
        """Change its Secret, if it holds others: the kubelets bring that to the pods in a minute or two."""
        self._shared.cache.require(*KINDS)
        owned_objects.renew(
            self._shared, RAYCLUSTER, self._own_raycluster(ref), raycluster.owner_of(ref), secrets, self._token(ref)
        )

    def suspend(self, ref: ClusterRef, spec: ClusterSpec) -> None:
        """Have KubeRay delete all of its pods; the RayCluster stays. No other field is compared or changed."""
        self._shared.cache.require(*KINDS)
        self._shared.forget_head_failure(self._shared.owner_key(ref))
        cluster = self._own_raycluster(ref)
        if cluster is not None and not cluster["spec"]["suspend"] and not owned_objects.is_leaving(cluster):
            log.info("cluster %s is suspended", ref)
            owned_objects.merge(self._shared, RAYCLUSTER, cluster, {"spec": {"suspend": True}})

    def delete(self, ref: ClusterRef) -> None:
        """Delete the RayCluster, which goes only after everything that belongs to it."""
        self._shared.cache.require(*KINDS)
        self._shared.forget_head_failure(self._shared.owner_key(ref))
        self._token(ref).unlink(missing_ok=True)
        cluster = self._own_raycluster(ref)
        if cluster is not None:
            self._delete(cluster)

    def _apply(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        shared = self._shared
        cluster = shared.cache[RAYCLUSTER].get(shared.settings.namespace(ref.team), ref.name)
        if cluster is not None and owned_objects.is_leaving(cluster):
            return  # it must be gone before a new one takes its name
        token, owner = self._token(ref), raycluster.owner_of(ref)
        if cluster is not None and not raycluster.is_of(cluster, ref):
            self._delete(cluster)
            return
        resumed = cluster is not None and cluster["spec"]["suspend"]
        if cluster is not None and not resumed and self._token_is_lost(cluster, token, owner):
            log.warning("cluster %s is made again: the token of its Ray is lost", ref)
            self._delete(cluster)
            return
        manifest = raycluster.render(ref, spec, launch, shared.settings, shared.root)
        applied = cluster
        if cluster is None or cluster["drift"] or not _matches(cluster, manifest):
            log.info(
                "cluster %s is applied: %s", ref, cluster["drift"] or "it is changed" if cluster else "it is missing"
            )
            if cluster is None:
                # Not by force: a RayCluster of that name that a user made by hand stays theirs.
                applied = owned_objects.apply(shared, RAYCLUSTER, manifest, force=False)
            else:
                applied = self._change(ref, manifest, cluster)
        assert applied is not None  # it was there before, or has just been made
        # Its pods are made again: if the Secret was deleted meanwhile, they would wait for it for ever.
        owned_objects.put_secrets(
            shared, RAYCLUSTER, applied, owner, launch.secrets, token, new=cluster is None, doubt=resumed
        )

    def _token_is_lost(self, cluster: Object, token: Path, owner: Owner) -> bool:
        """True if neither this gateway nor the Secret has the token of its Ray any more: only its pods know it."""
        if token.exists() or SECRETS_HASH not in cluster["metadata"]["annotations"]:
            return False
        return owned_objects.read_token(self._shared, owner, cluster["metadata"]["namespace"]) is None

    def _change(self, ref: ClusterRef, manifest: Object, cluster: Object) -> Object:
        """Apply the manifest over the present RayCluster, keeping the number of workers that the autoscaler set."""
        if cluster["spec"]["suspend"]:
            return owned_objects.apply(self._shared, RAYCLUSTER, manifest, force=True)
        with suppress(Conflict):  # the cached version is mostly the newest, and costs no call
            return owned_objects.apply(
                self._shared, RAYCLUSTER, raycluster.keeping_scale(manifest, cluster), force=True
            )
        for _ in range(_ATTEMPTS - 1):
            with suppress(Conflict):
                return self._change_once(ref, manifest)
        return self._change_once(ref, manifest)

    def _change_once(self, ref: ClusterRef, manifest: Object) -> Object:
        # Its resource version changes with its status, faster than the watch reports it.
        cluster = self._shared.api.get(RAYCLUSTER, ref.name, manifest["metadata"]["namespace"])
        if not raycluster.is_of(cluster, ref) or owned_objects.is_leaving(cluster):
            raise Conflict(f"The RayCluster of '{ref}' is being replaced.", remedy="Look again, and repeat.")
        return owned_objects.apply(self._shared, RAYCLUSTER, raycluster.keeping_scale(manifest, cluster), force=True)

    def _delete(self, cluster: Object) -> None:
        owned_objects.delete(self._shared, RAYCLUSTER, cluster, empties_redis=cluster["spec"]["gcsFaultTolerance"])

    def _own_raycluster(self, ref: ClusterRef) -> Object | None:
        """The cluster's own RayCluster, not that of an earlier cluster of the same name."""
        cluster = self._shared.cache[RAYCLUSTER].get(self._shared.settings.namespace(ref.team), ref.name)
        return cluster if cluster is not None and raycluster.is_of(cluster, ref) else None

    def _token(self, ref: ClusterRef) -> Path:
        return self._shared.token_path(ref.uid)


def _matches(cluster: Object, manifest: Object) -> bool:
    asked: str = manifest["metadata"]["annotations"][raycluster.ASKED_HASH]
    return bool(cluster["metadata"]["annotations"].get(raycluster.ASKED_HASH) == asked)
