"""Ask the API server, and the cluster's own Ray, for all that may tell why a cluster is not as wanted. A few calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rayplane.errors import NotFound, RayplaneError
from rayplane.gateway.backends.base import ClusterRef, Evidence
from rayplane.gateway.backends.kubernetes import pods as templates
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.evidence import evidence
from rayplane.gateway.backends.kubernetes.evidence_pods import is_ready
from rayplane.gateway.backends.kubernetes.kinds import (
    EVENT,
    LEASE,
    NAMESPACE,
    POD,
    QUOTA,
    RAYCLUSTER,
    RAYJOB,
    RAYSERVICE,
    UID,
    WORKLOAD,
    Object,
)
from rayplane.gateway.backends.kubernetes.preflight.kueue import QUEUE
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.gateway.ray_rest import RayRest
from rayplane.settings import read_secret

_PATIENCE = 3.0
"""Seconds that a cluster's dashboard may take to answer."""


def gather(
    api: KubeApi, settings: KubernetesSettings, ref: ClusterRef, *, token_path: Callable[[str], Path]
) -> list[Evidence]:
    """What is known of the nodes of a cluster, a job or a service, newest first. Raises Unavailable, Forbidden.

    ``token_path`` says where the token of a Ray is, by the uid of its cluster or service, or by the attempt of its job.
    """
    namespace, mine = settings.namespace(ref.team), f"{UID}={ref.uid}"
    try:
        place = api.get(NAMESPACE, namespace)
    except NotFound as exc:
        return [Evidence("cluster", f"namespace/{namespace}", "NamespaceMissing", exc.detail)]
    pods = api.list(POD, namespace, labels=mine).items
    cluster = _newest(api.list(RAYCLUSTER, namespace, labels=mine).items)
    owner = None
    if cluster is None or cluster["metadata"].get("ownerReferences"):
        owner = _newest([o for kind in (RAYJOB, RAYSERVICE) for o in api.list(kind, namespace, labels=mine).items])
    now = datetime.now(UTC)
    demands, silent = _demands(cluster, pods, token_path(_incarnation(ref, owner)))
    # The right to read events goes with the role binding, which is among the first to go with its namespace.
    going = place["status"].get("phase") == "Terminating"
    found = evidence(
        cluster,
        pods,
        [] if going else api.list(EVENT, namespace).items,
        api.list(QUOTA, namespace).items,
        owner=owner,
        workloads=_workloads(api, namespace, cluster),
        namespace=place,
        leases=api.list(LEASE, settings.operator_namespace).items,
        demands=demands,
        now=now,
    )
    return [*silent, *found]


def _incarnation(ref: ClusterRef, owner: Object | None) -> str:
    """What the token of its Ray is kept under: each attempt of a job has a Ray of its own."""
    attempt = ((owner or {}).get("spec") or {}).get("jobId")
    return str(attempt or ref.uid)


def _workloads(api: KubeApi, namespace: str, cluster: Object | None) -> list[Object]:
    """Kueue's of the cluster, where Kueue has it."""
    if cluster is None or QUEUE not in (cluster["metadata"].get("labels") or {}):
        return []
    try:
        found = api.list(WORKLOAD, namespace).items
    except NotFound:
        return []  # no Kueue is installed: nothing holds the cluster
    uid = cluster["metadata"]["uid"]
    return [w for w in found if any(o.get("uid") == uid for o in w["metadata"].get("ownerReferences") or [])]


def _demands(cluster: Object | None, pods: Sequence[Object], token: Path) -> tuple[list[str], list[Evidence]]:
    """(what Ray's work waits for, that Ray does not tell) of a cluster whose workers come and go."""
    autoscaled = ((cluster or {}).get("spec") or {}).get("enableInTreeAutoscaling")
    heads = [p for p in pods if p["metadata"]["labels"].get("ray.io/node-type") == "head" and is_ready(p)]
    if not heads or not token.exists() or not autoscaled:
        return [], []
    host = str(heads[0]["status"]["podIP"])
    host = f"[{host}]" if ":" in host else host
    ray = RayRest(f"http://{host}:{templates.DASHBOARD}", read_secret(token), timeout=_PATIENCE)
    try:
        return ray.demands(), []
    except RayplaneError as exc:
        about = f"pod/{heads[0]['metadata']['name']}"
        return [], [Evidence("cluster", about, "DashboardSilent", exc.detail, datetime.now(UTC), node="head")]
    finally:
        ray.close()


def _newest(found: Sequence[Object]) -> Object | None:
    return max(found, key=lambda obj: str(obj["metadata"].get("creationTimestamp")), default=None)
