"""Build Serve's configuration: one service's application, and a cluster's whole. Pure but for looking up packages."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from rayplane.gateway.reconcile import runtime_env
from rayplane.gateway.store.typed import Service
from rayplane.nouns.cluster import Endpoint
from rayplane.nouns.service import ServiceSpec
from rayplane.storage.root import Storage


def application(name: str, spec: ServiceSpec, version: str, environment: dict[str, Any]) -> dict[str, Any]:
    """One application of Serve's configuration."""
    args: dict[str, Any] = {
        "model_uri": f"models:/{model_of(spec)[0]}/{version}",
        "service": name,
        "min_replicas": spec.replicas.min,
        "max_replicas": spec.replicas.max,
        "max_ongoing_requests": spec.max_ongoing_requests,
    }
    if spec.feature_service is not None:
        args["feature_service"] = spec.feature_service
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": spec.app,
        "args": args,
        "runtime_env": environment,
    }


def application_of(obj: Service, spec: ServiceSpec, version: str, storage: Storage) -> dict[str, Any]:
    """The application of a service's object; raises NotFound if its code package is gone."""
    environment = runtime_env.build(storage, obj.team, spec.package, env={})
    return application(obj.metadata.name, spec, version, environment)


def configuration(endpoint: Endpoint, applications: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole configuration of a cluster's Serve; its HTTP server listens at the endpoint's address."""
    parts = urlsplit(endpoint.serve_url or "")
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": parts.hostname, "port": parts.port},
        "applications": sorted(applications, key=lambda a: str(a["name"])),
    }


def model_of(spec: ServiceSpec) -> tuple[str, str | None, str | None]:
    """(model, alias, version) of a service's URI; one of the latter two is None."""
    rest = spec.model.removeprefix("models:/")
    if "@" in rest:
        model, _, alias = rest.partition("@")
        return model, alias, None
    model, _, version = rest.rpartition("/")
    return model, None, version
