"""Services with nodes of their own as RayServices: the reconciler's requests as few API calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayplane.gateway.backends.base import Evidence, LaunchContext, ObjectRef, ServiceObservation, ServiceRef
from rayplane.gateway.backends.kubernetes import owned_objects, pods, rayservice
from rayplane.gateway.backends.kubernetes.kinds import POD, RAYCLUSTER, RAYSERVICE, Object
from rayplane.gateway.backends.kubernetes.owned_objects import Shared
from rayplane.gateway.backends.kubernetes.raycluster import ASKED_HASH
from rayplane.nouns.cluster import Endpoint, Nodes
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import Size

log = logging.getLogger(__name__)

KINDS = (RAYSERVICE, RAYCLUSTER, POD)


class Services:
    """The platform's RayServices. Thread-safe as long as no two threads act on one service."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def preflight(self, ref: ServiceRef, spec: ServiceSpec, size: Size) -> list[str]:
        """Problems for which KubeRay would refuse the RayService, or accept it and not act on it.

        The application is a stand-in: the real one is known only once the model version is.
        """
        assert spec.nodes is not None  # a service on a cluster has no RayService to check
        application = {"name": ref.name, "route_prefix": f"/{ref.name}", "import_path": spec.app}
        shared = self._shared
        launch = LaunchContext(size=size)
        manifest = rayservice.render(ref, spec.nodes, application, launch, shared.settings, shared.root)
        return [*pods.refusals(size), *shared.problems_of(manifest)]

    def ensure(self, ref: ServiceRef, nodes: Nodes, application: Mapping[str, Any], launch: LaunchContext) -> None:
        """Apply its RayService if that is missing, has drifted, or differs from the spec."""
        shared = self._shared
        shared.cache.require(*KINDS)
        service = self._rayservice(ref)
        if service is not None and owned_objects.is_leaving(service):
            return  # it must be gone before a new one takes its name
        manifest = rayservice.render(ref, nodes, application, launch, shared.settings, shared.root)
        wanted_hash = manifest["metadata"]["annotations"][ASKED_HASH]
        if service is None or service["drift"] or service["metadata"]["annotations"].get(ASKED_HASH) != wanted_hash:
            # A RayService of that name that a user made by hand stays theirs: force only changes of the platform's own.
            why = service["drift"] or "its spec changed" if service is not None else "it was missing"
            service = owned_objects.apply(shared, RAYSERVICE, manifest, force=service is not None)
            log.info("service %s is applied: %s", ref, why)
        owned_objects.put_secrets(
            shared, RAYSERVICE, service, rayservice.owner_of(ref), launch.secrets, self._token(ref)
        )

    def renew(self, ref: ServiceRef, secrets: Mapping[str, str]) -> None:
        """Change its Secret, if it holds others: the kubelets bring that to the pods in a minute or two."""
        self._shared.cache.require(*KINDS)
        owned_objects.renew(
            self._shared, RAYSERVICE, self._rayservice(ref), rayservice.owner_of(ref), secrets, self._token(ref)
        )

    def observe(self, ref: ServiceRef) -> ServiceObservation:
        """The service's state as the watch last reported it. Raises Unavailable once that is too old to rely on."""
        shared = self._shared
        shared.cache.require(*KINDS)
        service, owner_key = self._rayservice(ref), shared.owner_key(ref)
        newest_name = rayservice.newest_cluster(service) if service is not None else self._orphaned_cluster(ref)
        newest, newest_pods = owned_objects.look_at_cluster(shared, newest_name, owner_key)
        endpoint = None
        serving = "" if service is None or owned_objects.is_leaving(service) else rayservice.active_cluster(service)
        if serving:
            active, pods = (
                (newest, newest_pods)
                if serving == newest_name
                else owned_objects.look_at_cluster(shared, serving, owner_key)
            )
            if active.phase == "ready":
                endpoint = self._endpoint(ref, pods, owner_key.namespace)
        nodes = owned_objects.nodes_of(shared, owner_key)
        environment = shared.environment() if endpoint is not None else None
        return rayservice.look(service, newest, nodes, endpoint, environment)

    def evidence(self, ref: ObjectRef) -> list[Evidence]:
        """Evidence about its pods and its RayService, read from the API server now."""
        return self._shared.evidence(ref)

    def delete(self, ref: ServiceRef) -> None:
        """Delete its RayService, which goes only after its pods."""
        self._shared.cache.require(*KINDS)
        self._shared.forget_head_failure(self._shared.owner_key(ref))
        self._token(ref).unlink(missing_ok=True)
        service = self._rayservice(ref)
        if service is not None:
            owned_objects.delete(
                self._shared, RAYSERVICE, service, empties_redis=self._shared.settings.redis_address is not None
            )

    def _endpoint(self, ref: ServiceRef, pods: list[Object], namespace: str) -> Endpoint | None:
        endpoint = owned_objects.endpoint_of(self._shared, pods, self._token(ref), rayservice.owner_of(ref), namespace)
        if endpoint is None:
            return None
        url = self._shared.settings.serve_url.format(service=rayservice.serve_service(ref), namespace=namespace)
        return endpoint.model_copy(update={"serve_url": url, "client_address": None})

    def _rayservice(self, ref: ServiceRef) -> Object | None:
        return self._shared.cache[RAYSERVICE].get(self._shared.settings.namespace(ref.team), rayservice.name_of(ref))

    def _orphaned_cluster(self, ref: ServiceRef) -> str:
        """Name of a RayCluster that the service's deleted RayService left behind; empty if there is none."""
        owner_key = self._shared.owner_key(ref)
        for obj in (*self._shared.cache[RAYCLUSTER].of(owner_key), *self._shared.cache[POD].of(owner_key)):
            return str(obj["metadata"]["labels"].get(owned_objects.RAY_CLUSTER) or obj["metadata"]["name"])
        return ""

    def _token(self, ref: ServiceRef) -> Path:
        return self._shared.token_path(ref.uid)
