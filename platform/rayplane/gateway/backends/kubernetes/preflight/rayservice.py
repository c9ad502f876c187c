"""Rules for a RayService that its definition does not have: breaking one, it is accepted and never serves. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import raycluster, serve_config
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, below, child, nearest, shown

MOST_NAME = raycluster.MOST_NAME - 6
"""The most characters of a service's name: the operator adds six for the names of its clusters."""

Object = dict[str, Any]

_UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
_TIMEOUT = "ray.io/initializing-timeout"
_GO_DURATION = re.compile(r"[+-]?(0|((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)")


def wrong(service: Object, old: Object | None) -> Iterator[Finding]:
    """Findings about a RayService as the API server would store it; ``old`` is the present one, if any."""
    metadata, spec = service["metadata"], service["spec"]
    annotations, cluster = metadata.get("annotations") or {}, spec["rayClusterConfig"]
    yield from raycluster.name_wrong(metadata.get("name") or "", "RayService", MOST_NAME)
    yield from _timeout(annotations.get(_TIMEOUT) or "")
    yield from raycluster.managed_by_unset(service, old)
    yield from raycluster.spec_wrong(cluster, annotations, "spec.rayClusterConfig")
    yield from _cluster(cluster, spec, "spec.rayClusterConfig")
    yield from _upgrade(spec, cluster, "spec.upgradeStrategy")
    delay = spec.get("rayClusterDeletionDelaySeconds")
    if delay is not None and delay < 0:
        message = f"{delay} is negative"
        yield Finding("spec.rayClusterDeletionDelaySeconds", "ray.deletion-delay", message, "Give 0 or more seconds.")
    yield from serve_config.wrong(spec.get("serveConfigV2") or "", "spec.serveConfigV2")


def _timeout(value: str) -> Iterator[Finding]:
    """Finding about the annotation that limits a service's start."""
    positive = re.search(r"[1-9]", value) is not None and not value.startswith("-")
    if value and not (positive and (_GO_DURATION.fullmatch(value) or re.fullmatch(r"[+]?\d+", value))):
        message = f"{shown(value)} is no time"
        path = child("metadata.annotations", _TIMEOUT)
        yield Finding(path, "ray.initializing-timeout", message, "Give a duration such as 30m, or seconds.")


def _cluster(cluster: Object, spec: Object, path: str) -> Iterator[Finding]:
    if (cluster.get("authOptions") or {}).get("enableK8sTokenAuth"):
        message = "Kubernetes' own tokens don't work for services yet"
        remedy = "Leave it out: token authentication without it works."
        yield Finding(below(path, "authOptions.enableK8sTokenAuth"), "ray.k8s-auth", message, remedy)
    head = cluster["headGroupSpec"]
    if ((head.get("headService") or {}).get("metadata") or {}).get("name"):
        message = "a service names its head's Service itself"
        field = below(path, "headGroupSpec.headService.metadata.name")
        yield Finding(field, "ray.head-service-name", message, "Leave out the name.")
    ports = [port.get("name") or "" for port in raycluster.first_container(head["template"]).get("ports") or []]
    if ports and spec.get("serveService") is None and not any(re.match(r"serve(-|\Z)", name) for name in ports):
        message = "the head's first container has no port called 'serve', so its Service would not be made"
        field = below(path, "headGroupSpec.template.spec.containers[0].ports")
        remedy = "Add {name: serve, containerPort: 8000}."
        yield Finding(field, "ray.serve-port", message, remedy)


def _upgrade(spec: Object, cluster: Object, path: str) -> Iterator[Finding]:
    strategy = spec.get("upgradeStrategy") or {}
    kind, options = strategy.get("type"), strategy.get("clusterUpgradeOptions")
    if kind is not None and kind not in _UPGRADES:
        message = f"{shown(kind)} is none of {', '.join(_UPGRADES)}"
        yield Finding(child(path, "type"), "ray.upgrade-type", message, nearest(kind, _UPGRADES))
    if kind != "NewClusterWithIncrementalUpgrade":
        return
    if not raycluster.autoscaling(cluster):
        message = "a service is upgraded in steps only while the autoscaler is on"
        remedy = "Set 'rayClusterConfig.enableInTreeAutoscaling', or use NewCluster."
        yield Finding(child(path, "type"), "ray.upgrade-options", message, remedy)
    where = child(path, "clusterUpgradeOptions")
    if options is None:
        message = "required for an upgrade in steps, and missing"
        remedy = "Give stepSizePercent, intervalSeconds and gatewayClassName, or use NewCluster."
        yield Finding(where, "ray.upgrade-options", message, remedy)
        return
    for key in ("maxSurgePercent", "stepSizePercent"):
        if not 0 <= options.get(key, 0) <= 100:
            message = f"{options[key]} is no percentage"
            yield Finding(child(where, key), "ray.upgrade-options", message, "Give a number between 0 and 100.")
    if options.get("intervalSeconds", 1) <= 0:
        message = f"{options['intervalSeconds']} s is no interval"
        yield Finding(child(where, "intervalSeconds"), "ray.upgrade-options", message, "Give 1 second or more.")
    if not options.get("gatewayClassName"):
        message = "is empty"
        yield Finding(child(where, "gatewayClassName"), "ray.upgrade-options", message, "Name the gateway's class.")
