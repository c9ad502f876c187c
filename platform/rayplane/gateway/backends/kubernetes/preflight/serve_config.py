"""Rules for the configuration of Ray Serve in a RayService (``serveConfigV2``), a text that only Ray parses. Pure.

The operator repeatedly sends it to Ray's ``PUT /api/serve/applications/``; Ray's refusal shows in the operator's log
only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import formats
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, child, item, nearest, shown

_TOP = (
    *("proxy_location", "http_options", "grpc_options", "controller_options", "logging_config", "tracing_config"),
    *("applications", "target_capacity"),
)
_APPLICATION = (
    *("name", "route_prefix", "import_path", "runtime_env", "deployments", "autoscaling_policy", "args"),
    *("logging_config", "external_scaler_enabled"),
)

_MOST_OF_AUTO = 100
"""Ray's default ``max_replicas`` of a deployment with ``num_replicas: auto``."""


def wrong(text: str, path: str) -> Iterator[Finding]:
    """Findings about what Ray would refuse, and about unknown keys, which it drops silently. An empty text is valid."""
    if not text.strip():
        return
    try:
        config = formats.read_yaml(text)
    except formats.UnreadableYaml as error:
        yield Finding(path, "ray.serve-config", error.message, error.remedy)
        return
    if not isinstance(config, dict):
        message = f"is {shown(config)}, no mapping"
        yield Finding(path, "ray.serve-config", message, "Begin with 'applications:'.")
        return
    yield from _unknown(config, _TOP, path)
    applications = config.get("applications")
    if not isinstance(applications, list):
        message = "is no list" if "applications" in config else "required, and missing"
        field = child(path, "applications")
        yield Finding(field, "ray.serve-config", message, "List the applications, each with its import_path.")
        return
    capacity = config.get("target_capacity")
    if capacity is not None and not (_is_number(capacity) and 0 <= capacity <= 100):
        message = f"{shown(capacity)} is no percentage"
        yield Finding(child(path, "target_capacity"), "ray.serve-config", message, "Give a number between 0 and 100.")
    for index, application in enumerate(applications):
        yield from _application(application, item(child(path, "applications"), index))
    yield from _alike([each for each in applications if isinstance(each, dict)], child(path, "applications"))


def _application(application: Any, path: str) -> Iterator[Finding]:
    if not isinstance(application, dict):
        message = f"is {shown(application)}, no mapping"
        yield Finding(path, "ray.serve-application", message, "Give name, route_prefix and import_path.")
        return
    for key in ("host", "port"):
        if key in application:
            message = "is set for all applications at once"
            yield Finding(child(path, key), "ray.serve-application", message, "Set it under 'http_options'.")
    yield from _unknown(
        {key: each for key, each in application.items() if key not in ("host", "port")}, _APPLICATION, path
    )
    name = application.get("name", "default")
    if not isinstance(name, str) or not name:
        message = f"{shown(name)} is no name"
        yield Finding(child(path, "name"), "ray.serve-application", message, "Give it a name, or leave it out.")
    if problem := _import_path_wrong(application.get("import_path")):
        yield Finding(
            child(path, "import_path"), "ray.serve-import-path", problem, "Write it as module.path:application."
        )
    route = application.get("route_prefix", "/")
    if route is not None and not isinstance(route, str):
        message = f"{shown(route)} is no path"
        yield Finding(child(path, "route_prefix"), "ray.serve-route", message, "Give a path that begins with '/'.")
    elif route is not None and not route.startswith("/"):
        message = f"{shown(route)} does not begin with '/'"
        yield Finding(child(path, "route_prefix"), "ray.serve-route", message, f"Write '/{route}'.")
    elif route is not None and route != "/" and route.endswith("/"):
        message = f"{shown(route)} ends with '/'"
        yield Finding(child(path, "route_prefix"), "ray.serve-route", message, f"Write '{route.rstrip('/') or '/'}'.")
    for key, kind in (("deployments", list), ("args", dict), ("runtime_env", dict)):
        if (value := application.get(key)) is not None and not isinstance(value, kind):
            message = f"is {shown(value)}, no {'list' if kind is list else 'mapping'}"
            yield Finding(child(path, key), "ray.serve-application", message, "Correct it, or leave it out.")
    yield from _deployments(application.get("deployments"), child(path, "deployments"))


def _deployments(deployments: Any, path: str) -> Iterator[Finding]:
    for index, deployment in enumerate(deployments if isinstance(deployments, list) else []):
        where = item(path, index)
        if not isinstance(deployment, dict) or not isinstance(deployment.get("name"), str):
            yield Finding(where, "ray.serve-deployment", "does not say which deployment", "Give its name.")
            continue
        replicas, scaling = deployment.get("num_replicas"), deployment.get("autoscaling_config")
        if replicas not in (None, "auto") and (not isinstance(replicas, int) or replicas < 1):
            message = f"{shown(replicas)} is no number of replicas"
            yield Finding(child(where, "num_replicas"), "ray.serve-deployment", message, "Give 1 or more, or 'auto'.")
        elif replicas not in (None, "auto") and scaling is not None:
            message = f"{shown(replicas)} replicas and an autoscaling_config exclude each other"
            yield Finding(child(where, "num_replicas"), "ray.serve-deployment", message, "Keep one, or write 'auto'.")
        if isinstance(scaling, dict):
            least = scaling.get("min_replicas", 1)
            most = scaling.get("max_replicas", _MOST_OF_AUTO if replicas == "auto" else 1)
            if isinstance(least, int) and isinstance(most, int) and least > most:
                message = f"min_replicas {least} is more than max_replicas {most}"
                field = child(where, "autoscaling_config")
                yield Finding(field, "ray.serve-deployment", message, "Lower min_replicas, or raise max_replicas.")


def _alike(applications: list[dict[str, Any]], path: str) -> Iterator[Finding]:
    for key, default, remedy in (
        ("name", "default", "Give each application its own name."),
        ("route_prefix", "/", "Give each application its own route_prefix."),
    ):
        values = [each.get(key, default) for each in applications]
        for value in dict.fromkeys(each for each in values if isinstance(each, str) and values.count(each) > 1):
            yield Finding(path, "ray.serve-twice", f"{values.count(value)} have the {key} '{value}'", remedy)


def _import_path_wrong(value: Any) -> str:
    if value is None:
        return "required, and missing"
    if not isinstance(value, str):
        return f"is {shown(value)}, not a text"
    if ":" in value:
        module, _, name = value.partition(":")
        return "" if module and name and ":" not in name else f"{shown(value)} can't be imported from"
    module, _, name = value.rpartition(".")
    return "" if module and name else f"{shown(value)} can't be imported from"


def _unknown(mapping: dict[str, Any], known: tuple[str, ...], path: str) -> Iterator[Finding]:
    for key in mapping:
        if key not in known:
            yield Finding(child(path, str(key)), "ray.serve-unknown", "unknown key", nearest(str(key), known))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
