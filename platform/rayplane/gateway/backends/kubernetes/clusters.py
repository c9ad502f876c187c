"""Clusters as RayClusters: what the reconciler asks, turned into few calls. A cluster at rest costs none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rayplane.errors import Conflict
from rayplane.gateway.backends.base import ClusterRef, LaunchContext, Observation
from rayplane.gateway.backends.kubernetes import observation, own, pods, raycluster
from rayplane.gateway.backends.kubernetes.kinds import POD, RAYCLUSTER, Object
from rayplane.gateway.backends.kubernetes.own import Shared
from rayplane.gateway.backends.kubernetes.pods import Owner
from rayplane.gateway.backends.kubernetes.raycluster import SECRETS_HASH
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.team import Size

log = logging.getLogger(__name__)

KINDS = (RAYCLUSTER, POD)

_ATTEMPTS = 4
"""How often a change is tried while others change the same object."""


class Clusters:
    """RayClusters of the platform's. Thread-safe as long as no two threads act on one cluster."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """What KubeRay would refuse, or accept and never start."""
        shared = self._shared
        if not ref.name[0].isalpha():
            return [f"The name '{ref.name}' begins with a digit, a RayCluster's can't. Choose another name."]
        manifest = raycluster.render(ref, spec, LaunchContext(size=size), shared.settings, shared.root)
        return [*pods.refusals(size), *shared.wrong(manifest)]

    def observe(self, ref: ClusterRef) -> Observation:
        """What the watch told last."""
        shared = self._shared
        shared.cache.require(*KINDS)
        whose = shared.whose(ref)
        held = shared.cache[POD].of(whose)
        seen = observation.look(self._held(ref), held, shared.fall_of(whose))
        fields = {**vars(seen), "nodes": shared.with_gone(whose, seen.nodes)}
        if seen.phase != "ready":
            return Observation(**fields)
        owner = raycluster.owner_of(ref)
        endpoint = own.endpoint_of(shared, held, self._token(ref), owner, whose.namespace)
        if endpoint is None:
            lost = f"Secret '{owner.secret}': missing"
            return Observation(**{**fields, "phase": "starting", "reason": "NoSecret", "message": lost, "drift": lost})
        return Observation(**{**fields, "endpoint": endpoint, "environment": shared.environment()})

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Apply it if it is missing, drifted, suspended, or asked for otherwise. A head that died KubeRay replaces."""
        self._shared.cache.require(*KINDS)
        self._shared.forgive(self._shared.whose(ref))
        self._apply(ref, spec, launch)

    def renew(self, ref: ClusterRef, secrets: Mapping[str, str]) -> None:
        """Change its Secret, if it holds others."""
        self._shared.cache.require(*KINDS)
        own.renew(self._shared, RAYCLUSTER, self._held(ref), raycluster.owner_of(ref), secrets, self._token(ref))

    def suspend(self, ref: ClusterRef) -> None:
        """Have KubeRay take all of its pods down; the RayCluster stays. What else it says is of no account then."""
        self._shared.cache.require(*KINDS)
        self._shared.forgive(self._shared.whose(ref))
        held = self._held(ref)
        if held is not None and not held["spec"]["suspend"] and not own.is_leaving(held):
            log.info("cluster %s is suspended", ref)
            own.merge(self._shared, RAYCLUSTER, held, {"spec": {"suspend": True}})

    def delete(self, ref: ClusterRef) -> None:
        """Delete the RayCluster, which is gone only when all that belongs to it is."""
        self._shared.cache.require(*KINDS)
        self._shared.forgive(self._shared.whose(ref))
        self._token(ref).unlink(missing_ok=True)
        held = self._held(ref)
        if held is not None:
            self._delete(held)

    def _apply(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        shared = self._shared
        there = shared.cache[RAYCLUSTER].get(shared.settings.namespace(ref.team), ref.name)
        if there is not None and own.is_leaving(there):
            return  # it must be gone before another takes its name
        token, owner = self._token(ref), raycluster.owner_of(ref)
        if there is not None and not raycluster.is_of(there, ref):
            self._delete(there)
            return
        resumed = there is not None and there["spec"]["suspend"]
        if there is not None and not resumed and self._is_out_of_reach(there, token, owner):
            log.warning("cluster %s is made anew: the token of its Ray is lost", ref)
            self._delete(there)
            return
        manifest = raycluster.render(ref, spec, launch, shared.settings, shared.root)
        current = there
        if there is None or there["drift"] or not _is_as_asked(there, manifest):
            log.info("cluster %s is applied: %s", ref, there["drift"] or "it is changed" if there else "it is missing")
            if there is None:
                # Not by force: whoever made one of that name by hand keeps it.
                current = own.apply(shared, RAYCLUSTER, manifest, force=False)
            else:
                current = self._change(ref, manifest, there)
        assert current is not None  # it was there, or was made
        # Its pods come anew: where the Secret was taken away meanwhile, they would wait for it in vain.
        own.put_secrets(shared, RAYCLUSTER, current, owner, launch.secrets, token, new=there is None, doubt=resumed)

    def _is_out_of_reach(self, there: Object, token: Path, owner: Owner) -> bool:
        """Whether nobody but its pods knows the token of its Ray any more."""
        if token.exists() or SECRETS_HASH not in there["metadata"]["annotations"]:
            return False
        return own.read_token(self._shared, owner, there["metadata"]["namespace"]) is None

    def _change(self, ref: ClusterRef, manifest: Object, there: Object) -> Object:
        """Apply it over what is there. Where workers stay, so does their number, which is the autoscaler's."""
        if there["spec"]["suspend"]:
            return own.apply(self._shared, RAYCLUSTER, manifest, force=True)
        with suppress(Conflict):  # what the watch told last is mostly the newest, and costs no call
            return own.apply(self._shared, RAYCLUSTER, raycluster.keeping_scale(manifest, there), force=True)
        for _ in range(_ATTEMPTS - 1):
            with suppress(Conflict):
                return self._change_once(ref, manifest)
        return self._change_once(ref, manifest)

    def _change_once(self, ref: ClusterRef, manifest: Object) -> Object:
        # Its version changes with its status, faster than a watch tells.
        now = self._shared.api.get(RAYCLUSTER, ref.name, manifest["metadata"]["namespace"])
        if not raycluster.is_of(now, ref) or own.is_leaving(now):
            raise Conflict(f"The RayCluster of '{ref}' is being replaced.", remedy="Look again, and repeat.")
        return own.apply(self._shared, RAYCLUSTER, raycluster.keeping_scale(manifest, now), force=True)

    def _delete(self, held: Object) -> None:
        own.delete(self._shared, RAYCLUSTER, held, empties_redis=held["spec"]["gcsFaultTolerance"])

    def _held(self, ref: ClusterRef) -> Object | None:
        """The cluster's own RayCluster, not one of a predecessor's."""
        there = self._shared.cache[RAYCLUSTER].get(self._shared.settings.namespace(ref.team), ref.name)
        return there if there is not None and raycluster.is_of(there, ref) else None

    def _token(self, ref: ClusterRef) -> Path:
        return self._shared.token_path(ref.uid)


def _is_as_asked(there: Object, manifest: Object) -> bool:
    asked: str = manifest["metadata"]["annotations"][raycluster.ASKED_HASH]
    return bool(there["metadata"]["annotations"].get(raycluster.ASKED_HASH) == asked)
