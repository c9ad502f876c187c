"""Extract from Kubernetes objects the evidence of why a cluster is not as wanted. Pure: API objects in, evidence out.

Only evidence that still holds is returned: events of a pod that is gone, of a refusal that a later creation disproves,
or of a container that has started since, are dropped.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.backends.kubernetes import evidence_pods as of_pods
from rayplane.gateway.backends.kubernetes.evidence_events import Said, instant, said

Resource = Mapping[str, Any]

RECENT = timedelta(minutes=15)
"""Maximum age of an event that nothing else confirms. The API server keeps events for an hour."""
SILENCE = timedelta(seconds=20)
"""Time that the operator has to look at a new RayCluster; it takes a second."""
LEAVING = timedelta(seconds=60)
"""Time that a deletion may take before it counts as stuck."""

OPERATOR_LEASE = "ray-operator-leader"
"""The lease that KubeRay's leading operator holds while its other replicas wait."""

_INVALID = ("InvalidRayCluster", "InvalidRayJob", "InvalidRayService")
_REFUSED: dict[str, Literal["head", "worker"]] = {
    "FailedToCreateHeadPod": "head",
    "FailedCreateHeadPod": "head",
    "FailedToCreateWorkerPod": "worker",
    "FailedCreateWorkerPod": "worker",
}
_BEFORE_PODS = (
    *("FailedToCreateService", "FailedToCreateServiceAccount", "FailedToCreateRole", "FailedToCreateRoleBinding"),
    *("FailedToCreateIngress", "FailedToCreateRoute"),
)
"""Events of objects that the operator makes before any pod, and could not make."""
_ENDED: dict[str, Literal["head", "worker"]] = {"DeletedHeadPod": "head", "DeletedWorkerPod": "worker"}


def evidence(
    cluster: Resource | None,
    pods: Sequence[Resource],
    events: Sequence[Resource],
    quotas: Sequence[Resource] = (),
    *,
    now: datetime,
    owner: Resource | None = None,
    workloads: Sequence[Resource] = (),
    namespace: Resource | None = None,
    leases: Sequence[Resource] = (),
    demands: Sequence[str] = (),
) -> list[Evidence]:
    """Evidence about one RayCluster, newest first, without duplicates.

    ``pods`` and ``events`` are those of its namespace that may concern it; ``owner`` is the RayJob or RayService that
    it belongs to; ``workloads`` are Kueue's Workloads of the cluster; ``leases`` those of the operator's namespace;
    ``demands`` the lines that Ray's autoscaler reports as pending, such as ``{'CPU': 1.0}: 5+ pending tasks/actors``.
    """
    facts: list[Evidence] = []
    live = [pod for pod in pods if not _has_succeeded(pod)]
    if namespace is not None:
        facts += _of_namespace(namespace, now)
    facts += [fact for lease in leases for fact in _of_lease(lease, now)]
    if owner is not None:
        facts += _of_owner(owner, cluster, events, now)
    if cluster is not None:
        from_events = _of_events(cluster, live, events, now)
        facts += _of_cluster(cluster, live, now)
        facts += from_events
        facts += _of_operator(cluster, live, from_events, now)
        facts += _of_autoscaler(cluster, live, demands, now)
    for pod in live:
        facts += of_pods.evidence(pod, said(events, pod), now)
    facts += [fact for workload in workloads for fact in _of_workload(workload)]
    facts += [fact for quota in quotas for fact in _of_quota(quota)]
    return _newest_first(facts)


def _of_namespace(namespace: Resource, now: datetime) -> list[Evidence]:
    if namespace.get("status", {}).get("phase") != "Terminating":
        return []
    meta = namespace["metadata"]
    since = instant(meta.get("deletionTimestamp")) or now
    left = [
        str(c.get("message", ""))
        for c in namespace.get("status", {}).get("conditions", [])
        if c.get("status") == "True" and c.get("type") in ("NamespaceContentRemaining", "NamespaceFinalizersRemaining")
    ]
    message = f"The namespace has been going for {_seconds(now - since)}. {' '.join(left)}".strip()
    return [Evidence("cluster", f"namespace/{meta['name']}", "NamespaceTerminating", message, since)]


def _of_lease(lease: Resource, now: datetime) -> list[Evidence]:
    """Evidence that no operator holds the leader's lease: none of its replicas acts."""
    spec = lease.get("spec") or {}
    renewed = instant(spec.get("renewTime"))
    if lease["metadata"]["name"] != OPERATOR_LEASE or renewed is None:
        return []
    if now - renewed <= timedelta(seconds=int(spec.get("leaseDurationSeconds") or 15)) + SILENCE:
        return []
    message = f"No operator has renewed its lease for {_seconds(now - renewed)}."
    return [Evidence("operator", f"lease/{OPERATOR_LEASE}", "Down", message, renewed)]


def _of_owner(owner: Resource, cluster: Resource | None, events: Sequence[Resource], now: datetime) -> list[Evidence]:
    """Evidence from the RayJob or RayService that owns these nodes: its status, and the operator's events."""
    meta, status = owner["metadata"], owner.get("status") or {}
    about = f"{str(owner.get('kind', 'owner')).lower()}/{meta['name']}"
    facts = []
    if status.get("jobDeploymentStatus") in ("ValidationFailed", "Failed"):
        reason = str(status.get("reason") or status["jobDeploymentStatus"])
        facts.append(
            Evidence("operator", about, reason, str(status.get("message") or ""), instant(status.get("endTime")))
        )
    for condition in status.get("conditions") or []:
        refused = condition.get("reason") in ("ValidationFailed", "InitializingTimeout")
        if condition.get("type") == "Ready" and condition.get("status") == "False" and refused:
            at = instant(condition.get("lastTransitionTime"))
            facts.append(Evidence("operator", about, condition["reason"], str(condition.get("message") or ""), at))
    clusters = [cluster] if cluster is not None else []
    for event in said(events, owner):
        if event.reason == "FailedToCreateRayCluster" and _created_since(event.at, clusters):
            continue
        if event.is_warning and now - event.at <= RECENT and not facts:
            source: Literal["operator", "event"] = "operator" if event.reason.startswith(_INVALID) else "event"
            facts.append(Evidence(source, about, event.reason, event.message, event.at, event.count))
    was_seen = status.get("jobDeploymentStatus") or status.get("conditions")
    created = instant(meta.get("creationTimestamp")) or now
    if not was_seen and not facts and now - created > SILENCE:
        message = f"It was made {_seconds(now - created)} ago and the operator has not looked at it."
        facts.append(Evidence("operator", about, "Silent", message, created))
    return facts


def _of_cluster(cluster: Resource, pods: Sequence[Resource], now: datetime) -> list[Evidence]:
    meta, status = cluster["metadata"], cluster.get("status") or {}
    about = f"raycluster/{meta['name']}"
    facts = []
    going = instant(meta.get("deletionTimestamp"))
    if going is not None and now - going > LEAVING:
        finalizers = ", ".join(meta.get("finalizers") or []) or "none"
        message = (
            f"It has been going for {_seconds(now - going)}; finalizers left: {finalizers}; pods left: {len(pods)}."
        )
        facts.append(Evidence("cluster", about, "Terminating", message, going))
    for condition in status.get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            reason = str(condition.get("reason", "ReplicaFailure"))
            at = instant(condition.get("lastTransitionTime"))
            facts.append(
                Evidence("cluster", about, reason, str(condition.get("message", "")), at, node=_REFUSED.get(reason))
            )
    if status.get("state") == "failed":
        message = str(status.get("reason") or "The operator calls the cluster failed.")
        facts.append(Evidence("operator", about, "Failed", message, instant(status.get("lastUpdateTime"))))
    return facts


def _of_events(
    cluster: Resource, pods: Sequence[Resource], events: Sequence[Resource], now: datetime
) -> list[Evidence]:
    """Evidence from the RayCluster's own events that are not outdated."""
    facts = []
    about = f"raycluster/{cluster['metadata']['name']}"
    for event in said(events, cluster):
        if not _still_holds(event, cluster, pods, now):
            continue
        node = _REFUSED.get(event.reason) or _ENDED.get(event.reason)
        source: Literal["operator", "event"] = "operator" if event.reason.startswith(_INVALID) else "event"
        facts.append(Evidence(source, about, event.reason, event.message, event.at, event.count, node))
    return facts


def _still_holds(event: Said, cluster: Resource, pods: Sequence[Resource], now: datetime) -> bool:
    if now - event.at > RECENT:
        return False
    if event.reason in _ENDED:
        # The operator replaces a pod whose Ray has ended: its event is all that is left of the pod.
        node = _ENDED[event.reason]
        wanted = node == "head" or _wanted_workers(cluster) > 0
        return "ExitCode" in event.message and wanted and not any(of_pods.is_ready(p) for p in pods if _node(p) == node)
    if not event.is_warning:
        return False
    meta, status = cluster["metadata"], cluster.get("status") or {}
    if event.reason.startswith(_INVALID):
        changed = _last_changed(meta)
        # The operator does not act on a spec that it refuses: a newer status means that it accepts the spec now.
        acted = [instant(c.get("lastTransitionTime")) for c in status.get("conditions") or []]
        return (
            status.get("observedGeneration") != meta.get("generation")
            and (changed is None or event.at >= changed)
            and not any(at is not None and at >= event.at for at in acted)
        )
    if event.reason in _REFUSED:
        return not _created_since(event.at, [pod for pod in pods if _node(pod) == _REFUSED[event.reason]])
    return not (event.reason in _BEFORE_PODS and _created_since(event.at, pods))


def _created_since(at: datetime, objects: Iterable[Resource]) -> bool:
    times = (instant(obj["metadata"].get("creationTimestamp")) for obj in objects)
    return any(created is not None and created >= at for created in times)


def _of_operator(
    cluster: Resource, pods: Sequence[Resource], from_events: Sequence[Evidence], now: datetime
) -> list[Evidence]:
    """Evidence that the operator is silent: a running operator would have acted by now."""
    meta, spec, status = cluster["metadata"], cluster.get("spec") or {}, cluster.get("status") or {}
    # If the operator looked at it and gave a reason for not acting, that reason is the evidence.
    conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or []}
    explained = any(_explains_no_pods(fact.reason) for fact in from_events)
    if meta.get("deletionTimestamp") or explained or conditions.get("ReplicaFailure") == "True":
        return []
    changed = _last_changed(meta) or instant(meta.get("creationTimestamp")) or now
    omission = ""
    if not status.get("conditions") and not status.get("state") and not pods:
        omission = "has not looked at it"
    elif spec.get("suspend") and pods and conditions.get("RayClusterSuspending") != "True":
        omission = "has not suspended it"
    elif not spec.get("suspend") and not any(_node(pod) == "head" for pod in pods):
        omission = "has made no head"
        changed = max([changed, *(at for pod in pods if (at := instant(pod["metadata"].get("deletionTimestamp"))))])
    if not omission or now - changed <= SILENCE:
        return []
    name = meta["name"]
    message = f"RayCluster '{name}' was written {_seconds(now - changed)} ago and the operator {omission}."
    return [Evidence("operator", f"raycluster/{name}", "Silent", message, changed)]


def _explains_no_pods(reason: str) -> bool:
    """True if this reason of an event explains why a RayCluster has no pods."""
    known = (*_REFUSED, *_BEFORE_PODS, *_ENDED, "AutoscalerServiceAccountNotFound")
    return reason in known or reason.startswith(_INVALID)


def _wanted_workers(cluster: Resource) -> int:
    """Number of workers that the operator should keep now."""
    groups = (cluster.get("spec") or {}).get("workerGroupSpecs") or []
    return sum(max(int(g.get("replicas") or 0), int(g.get("minReplicas") or 0)) for g in groups if not g.get("suspend"))


def _of_autoscaler(
    cluster: Resource, pods: Sequence[Resource], demands: Sequence[str], now: datetime
) -> list[Evidence]:
    """Evidence of resource demands of Ray's work that the autoscaler can't meet, or has not met yet."""
    groups = (cluster.get("spec") or {}).get("workerGroupSpecs") or []
    about = f"raycluster/{cluster['metadata']['name']}"
    wanted, most = _wanted_workers(cluster), sum(int(g.get("maxReplicas") or 0) for g in groups)
    ready = sum(of_pods.is_ready(pod) for pod in pods if _node(pod) == "worker")
    waiting = [line.strip() for line in demands if line.strip()]
    facts = [("Infeasible", line) for line in waiting if _is_infeasible(line, cluster)]
    rest = [line for line in waiting if ("Infeasible", line) not in facts]
    if rest and ready >= most:
        facts += [("AtMaxWorkers", f"{ready} of at most {most} workers are there; waiting: {'; '.join(rest[:3])}")]
    elif rest or (wanted > ready and _is_old_enough(pods, now)):
        facts += [
            ("WorkersPending", f"{ready} of {wanted} workers are ready; waiting: {'; '.join(rest[:3]) or 'none'}")
        ]
    return [Evidence("autoscaler", about, reason, message, now, node="worker") for reason, message in facts]


def _is_infeasible(line: str, cluster: Resource) -> bool:
    """True if a pending demand asks for more than any single node of the cluster has."""
    match = re.match(r"(\{.*?\}): .*pending tasks/actors", line)
    if match is None:
        return False
    try:
        asked: dict[str, float] = ast.literal_eval(match[1])
    except (ValueError, SyntaxError):
        return False
    spec = cluster.get("spec") or {}
    nodes = [of_pods.ray_resources(group) for group in (spec.get("headGroupSpec"), *spec.get("workerGroupSpecs", []))]
    return not any(all(node.get(name, amount) >= amount for name, amount in asked.items()) for node in nodes)


def _of_workload(workload: Resource) -> list[Evidence]:
    """Kueue's verdict on a cluster's Workload that is not admitted yet."""
    conditions = workload.get("status", {}).get("conditions") or []
    by_type = {c.get("type"): c for c in conditions}
    if by_type.get("Admitted", {}).get("status") == "True":
        return []
    about = f"workload/{workload['metadata']['name']}"
    queue = str(workload.get("spec", {}).get("queueName", ""))
    verdict = by_type.get("QuotaReserved") or {}
    reason = str(verdict.get("reason") or "Pending")
    message = str(verdict.get("message") or f"Kueue has not looked at it; its queue is '{queue}'.")
    at = instant(verdict.get("lastTransitionTime") or workload["metadata"].get("creationTimestamp"))
    return [Evidence("quota", about, reason, message, at)]


def _of_quota(quota: Resource) -> list[Evidence]:
    """Evidence of the resources of a ResourceQuota that are used up."""
    status = quota.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    full = [
        f"{name} {used[name]} of {hard[name]}"
        for name in sorted(hard)
        if str(used.get(name, "0")) == str(hard[name]) != "0"
    ]
    if not full:
        return []
    return [Evidence("quota", f"resourcequota/{quota['metadata']['name']}", "Full", ", ".join(full))]


def _newest_first(facts: Iterable[Evidence]) -> list[Evidence]:
    """Evidence without duplicates: of those that say the same, the newest with the highest count."""
    newest: dict[tuple[str, str, str, str], Evidence] = {}
    for fact in facts:
        key = (fact.source, fact.about, fact.reason, fact.message)
        other = newest.get(key)
        if other is None or _order(fact) > _order(other):
            newest[key] = fact
    return sorted(newest.values(), key=_order, reverse=True)


def _order(fact: Evidence) -> tuple[float, int]:
    return (fact.at.timestamp() if fact.at is not None else 0.0, fact.count)


def _node(pod: Resource) -> str:
    return str(pod["metadata"].get("labels", {}).get("ray.io/node-type", ""))


def _has_succeeded(pod: Resource) -> bool:
    """True if a pod has succeeded, so that it is no longer part of the cluster."""
    return str(pod.get("status", {}).get("phase")) == "Succeeded"


def _is_old_enough(pods: Sequence[Resource], now: datetime) -> bool:
    """True if the newest pod has had the time to start, so that a missing worker is worth reporting."""
    made = [at for pod in pods if (at := instant(pod["metadata"].get("creationTimestamp")))]
    return bool(made) and now - max(made) > SILENCE


def _last_changed(meta: Resource) -> datetime | None:
    """Time of the last change of its spec, by any manager; None if the API does not tell."""
    fields = [f for f in meta.get("managedFields") or [] if "f:spec" in (f.get("fieldsV1") or {})]
    times = [instant(f.get("time")) for f in fields]
    return max((at for at in times if at is not None), default=None)


def _seconds(span: timedelta) -> str:
    return f"{max(0.0, span.total_seconds()):.0f} s"
