"""Services with nodes of their own as RayServices: what the reconciler asks, turned into few calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayplane.gateway.backends.base import LaunchContext, ServiceObservation, ServiceRef
from rayplane.gateway.backends.kubernetes import own, pods, rayservice
from rayplane.gateway.backends.kubernetes.kinds import POD, RAYCLUSTER, RAYSERVICE, Object
from rayplane.gateway.backends.kubernetes.own import Shared
from rayplane.gateway.backends.kubernetes.raycluster import ASKED_HASH
from rayplane.nouns.cluster import Endpoint, Nodes
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import Size

log = logging.getLogger(__name__)

KINDS = (RAYSERVICE, RAYCLUSTER, POD)


class Services:
    """RayServices of the platform's. Thread-safe as long as no two threads act on one service."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def preflight(self, ref: ServiceRef, spec: ServiceSpec, size: Size) -> list[str]:
        """What KubeRay would refuse, or accept and not act on. What it is to serve is not known before its model is."""
        assert spec.nodes is not None  # there is nothing to check of a service on a cluster
        application = {"name": ref.name, "route_prefix": f"/{ref.name}", "import_path": spec.app}
        shared = self._shared
        launch = LaunchContext(size=size)
        manifest = rayservice.render(ref, spec.nodes, application, launch, shared.settings, shared.root)
        return [*pods.refusals(size), *shared.wrong(manifest)]

    def ensure(self, ref: ServiceRef, nodes: Nodes, application: Mapping[str, Any], launch: LaunchContext) -> None:
        """Apply its RayService if it is missing, drifted, or asked for otherwise."""
        shared = self._shared
        shared.cache.require(*KINDS)
        held = self._held(ref)
        if held is not None and own.is_leaving(held):
            return  # it must be gone before another takes its name
        manifest = rayservice.render(ref, nodes, application, launch, shared.settings, shared.root)
        asked = manifest["metadata"]["annotations"][ASKED_HASH]
        if held is None or held["drift"] or held["metadata"]["annotations"].get(ASKED_HASH) != asked:
            # Whoever made one of that name by hand keeps it: only what is ours already is taken by force.
            why = held["drift"] or "it is asked for otherwise" if held is not None else "it was missing"
            held = own.apply(shared, RAYSERVICE, manifest, force=held is not None)
            log.info("service %s is applied: %s", ref, why)
        own.put_secrets(shared, RAYSERVICE, held, rayservice.owner_of(ref), launch.secrets, self._token(ref))

    def renew(self, ref: ServiceRef, secrets: Mapping[str, str]) -> None:
        """Change its Secret, if it holds others."""
        self._shared.cache.require(*KINDS)
        own.renew(self._shared, RAYSERVICE, self._held(ref), rayservice.owner_of(ref), secrets, self._token(ref))

    def observe(self, ref: ServiceRef) -> ServiceObservation:
        """What the watch told last."""
        shared = self._shared
        shared.cache.require(*KINDS)
        service, whose = self._held(ref), shared.whose(ref)
        newest_name = rayservice.newest_cluster(service) if service is not None else self._left_over(ref)
        newest, held = own.look_at_cluster(shared, newest_name, whose)
        endpoint = None
        serving = "" if service is None or own.is_leaving(service) else rayservice.active_cluster(service)
        if serving:
            active, pods = (newest, held) if serving == newest_name else own.look_at_cluster(shared, serving, whose)
            if active.phase == "ready":
                endpoint = self._endpoint(ref, pods, whose.namespace)
        nodes = own.nodes_of(shared, whose)
        environment = shared.environment() if endpoint is not None else None
        return rayservice.look(service, newest, nodes, endpoint, environment)

    def delete(self, ref: ServiceRef) -> None:
        """Delete its RayService, which is gone only when its pods are."""
        self._shared.cache.require(*KINDS)
        self._shared.forgive(self._shared.whose(ref))
        self._token(ref).unlink(missing_ok=True)
        held = self._held(ref)
        if held is not None:
            own.delete(self._shared, RAYSERVICE, held, empties_redis=self._shared.settings.redis_address is not None)

    def _endpoint(self, ref: ServiceRef, pods: list[Object], namespace: str) -> Endpoint | None:
        found = own.endpoint_of(self._shared, pods, self._token(ref), rayservice.owner_of(ref), namespace)
        if found is None:
            return None
        url = self._shared.settings.serve_url.format(service=rayservice.serve_service(ref), namespace=namespace)
        return found.model_copy(update={"serve_url": url, "client_address": None})

    def _held(self, ref: ServiceRef) -> Object | None:
        return self._shared.cache[RAYSERVICE].get(self._shared.settings.namespace(ref.team), rayservice.name_of(ref))

    def _left_over(self, ref: ServiceRef) -> str:
        """A RayCluster of a service whose RayService is gone, if there still is one."""
        whose = self._shared.whose(ref)
        for obj in (*self._shared.cache[RAYCLUSTER].of(whose), *self._shared.cache[POD].of(whose)):
            return str(obj["metadata"]["labels"].get(own.RAY_CLUSTER) or obj["metadata"]["name"])
        return ""

    def _token(self, ref: ServiceRef) -> Path:
        return self._shared.token_path(ref.uid)
