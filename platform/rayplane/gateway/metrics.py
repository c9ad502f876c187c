"""The metrics that the gateway exports to Prometheus: one registry, every metric by name."""

from __future__ import annotations

import platform as _host
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

REGISTRY = CollectorRegistry()
"""The gateway's own registry: metrics that libraries add to the default one are not exported."""

CONTENT_TYPE = CONTENT_TYPE_LATEST

REQUESTS = Counter(
    "rayplane_http_requests_total",
    "HTTP requests answered, by method, route template and status code.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "rayplane_http_request_duration_seconds",
    "Time from a request's arrival to the end of its answer, in seconds.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
LIMITED = Counter(
    "rayplane_http_limited_total",
    "Times that a limit of the API was reached: headers, head (its time), body (its time), bytes, connections, "
    "requests (of a principal), followed_logs.",
    ["limit"],
    registry=REGISTRY,
)
REFUSED = Counter(
    "rayplane_http_refused_total",
    "HTTP requests answered with 401 or 403, by status and reason; the audit log says whose they were.",
    ["status", "reason"],
    registry=REGISTRY,
)
OBJECTS = Gauge(
    "rayplane_objects",
    "Objects in the store, by kind and phase.",
    ["kind", "phase"],
    registry=REGISTRY,
)
LEASES_OPEN = Gauge(
    "rayplane_leases_open",
    "Open leases of compute, by team.",
    ["team"],
    registry=REGISTRY,
)
EVENTS = Counter(
    "rayplane_events_ingested_total",
    "Events of workers that were new to the gateway, by team.",
    ["team"],
    registry=REGISTRY,
)
LOGS_CUT = Counter(
    "rayplane_logs_cut_total",
    "Attempts of jobs whose kept log lacks its end.",
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "rayplane_reconcile_duration_seconds",
    "Time that one look at one object took, in seconds, by kind.",
    ["kind"],
    buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
RECONCILE_ERRORS = Counter(
    "rayplane_reconcile_errors_total",
    "Looks at an object that ended in an error, by kind.",
    ["kind"],
    registry=REGISTRY,
)
RECONCILE_LAG = Gauge(
    "rayplane_reconcile_lag_seconds",
    "How late the last look at an object of this kind came after it was due, in seconds.",
    ["kind"],
    registry=REGISTRY,
)
DRIFT_REPAIRS = Counter(
    "rayplane_drift_repairs_total",
    "Clusters that differed from what was asked for and were put right, by backend.",
    ["backend"],
    registry=REGISTRY,
)
RECLAIMED = Counter(
    "rayplane_clusters_reclaimed_total",
    "Clusters that the platform suspended by itself, by reason: Idle or Lifetime.",
    ["reason"],
    registry=REGISTRY,
)
LEADER = Gauge(
    "rayplane_leader",
    "1 on the replica that reconciles, else 0.",
    registry=REGISTRY,
)
KUBERNETES_CALLS = Counter(
    "rayplane_kubernetes_api_calls_total",
    "Requests to Kubernetes' API server, by verb and resource; a watch counts when it is opened.",
    ["verb", "resource"],
    registry=REGISTRY,
)
BUILD = Gauge(
    "rayplane_build_info",
    "Always 1; the labels tell the version that runs.",
    ["version", "python"],
    registry=REGISTRY,
)
BUILD.labels(version("rayplane"), _host.python_version()).set(1)


def render() -> bytes:
    """The registry's metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
