"""Query the API server and the cluster's own Ray for evidence of why a cluster is not as wanted, in a few calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rayplane.errors import NotFound, RayplaneError
from rayplane.gateway.backends.base import Evidence, ObjectRef
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
    api: KubeApi, settings: KubernetesSettings, ref: ObjectRef, *, token_path: Callable[[str], Path]
) -> list[Evidence]:
    """Evidence about the nodes of a cluster, a job or a service, newest first. Raises Unavailable, Forbidden.

    ``token_path`` gives the path of a Ray's token, by the uid of its cluster or service, or by the attempt of its job.
    """
    namespace, selector = settings.namespace(ref.team), f"{UID}={ref.uid}"
    try:
        team_namespace = api.get(NAMESPACE, namespace)
    except NotFound as exc:
        return [Evidence("cluster", f"namespace/{namespace}", "NamespaceMissing", exc.detail)]
    pods = api.list(POD, namespace, labels=selector).items
    cluster = _newest(api.list(RAYCLUSTER, namespace, labels=selector).items)
    owner = None
    if cluster is None or cluster["metadata"].get("ownerReferences"):
        owner = _newest([o for kind in (RAYJOB, RAYSERVICE) for o in api.list(kind, namespace, labels=selector).items])
    now = datetime.now(UTC)
    demands, unanswered = _demands(cluster, pods, token_path(_token_key(ref, owner)))
    # Deleting a namespace deletes its role binding early, and with it the gateway's right to read events.
    terminating = team_namespace["status"].get("phase") == "Terminating"
    facts = evidence(
        cluster,
        pods,
        [] if terminating else api.list(EVENT, namespace).items,
        api.list(QUOTA, namespace).items,
        owner=owner,
        workloads=_workloads(api, namespace, cluster),
        namespace=team_namespace,
        leases=api.list(LEASE, settings.operator_namespace).items,
        demands=demands,
        now=now,
    )
    return [*unanswered, *facts]


def _token_key(ref: ObjectRef, owner: Object | None) -> str:
    """Key of its Ray's token: the attempt of a job, which has a Ray of its own, else the uid."""
    attempt = ((owner or {}).get("spec") or {}).get("jobId")
    return str(attempt or ref.uid)


def _workloads(api: KubeApi, namespace: str, cluster: Object | None) -> list[Object]:
    """Kueue's Workloads of the cluster, if the cluster is in a queue."""
    if cluster is None or QUEUE not in (cluster["metadata"].get("labels") or {}):
        return []
    try:
        workloads = api.list(WORKLOAD, namespace).items
    except NotFound:
        return []  # Kueue is not installed, so it does not hold the cluster
    uid = cluster["metadata"]["uid"]
    return [w for w in workloads if any(o.get("uid") == uid for o in w["metadata"].get("ownerReferences") or [])]


def _demands(cluster: Object | None, pods: Sequence[Object], token: Path) -> tuple[list[str], list[Evidence]]:
    """(pending demands of Ray's work, evidence that Ray does not answer) of an autoscaled cluster."""
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


def _newest(objects: Sequence[Object]) -> Object | None:
    return max(objects, key=lambda obj: str(obj["metadata"].get("creationTimestamp")), default=None)
