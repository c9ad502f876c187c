"""What Kubernetes says that bears on why a cluster is not as wanted. Pure: objects as the API gives them in, facts out.

Only what still holds is told: an event of a pod that is gone, of a refusal that a later creation disproves, or of a
container that has started since, is dropped.
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
"""How old an event may be that nothing else confirms. The API server keeps them for an hour."""
SILENCE = timedelta(seconds=20)
"""How long the operator may take to look at a new RayCluster; it takes a second."""
LEAVING = timedelta(seconds=60)
"""How long something may take to go before its going is a fault."""

OPERATOR_LEASE = "ray-operator-leader"
"""The lease by which one of KubeRay's operators acts and the others wait."""

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
"""What the operator could not make of that which it makes before any pod."""
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
    """Facts about one RayCluster, newest first, each once.

    ``pods`` and ``events`` are those of its namespace that may concern it; ``owner`` is the RayJob or RayService that
    it belongs to; ``workloads`` are Kueue's of the cluster; ``leases`` those of the operator's namespace; ``demands``
    the lines that Ray's autoscaler reports as pending, such as ``{'CPU': 1.0}: 5+ pending tasks/actors``.
    """
    found: list[Evidence] = []
    live = [pod for pod in pods if not _is_old(pod)]
    if namespace is not None:
        found += _of_namespace(namespace, now)
    found += [fact for lease in leases for fact in _of_lease(lease, now)]
    if owner is not None:
        found += _of_owner(owner, cluster, events, now)
    if cluster is not None:
        heard = _heard(cluster, live, events, now)
        found += _of_cluster(cluster, live, now)
        found += heard
        found += _of_operator(cluster, live, heard, now)
        found += _of_autoscaler(cluster, live, demands, now)
    for pod in live:
        found += of_pods.evidence(pod, said(events, pod), now)
    found += [fact for workload in workloads for fact in _of_workload(workload)]
    found += [fact for quota in quotas for fact in _of_quota(quota)]
    return _newest_first(found)


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
    """That no operator holds the lease by which one of them acts."""
    spec = lease.get("spec") or {}
    renewed = instant(spec.get("renewTime"))
    if lease["metadata"]["name"] != OPERATOR_LEASE or renewed is None:
        return []
    if now - renewed <= timedelta(seconds=int(spec.get("leaseDurationSeconds") or 15)) + SILENCE:
        return []
    message = f"No operator has renewed its lease for {_seconds(now - renewed)}."
    return [Evidence("operator", f"lease/{OPERATOR_LEASE}", "Down", message, renewed)]


def _of_owner(owner: Resource, cluster: Resource | None, events: Sequence[Resource], now: datetime) -> list[Evidence]:
    """What the operator says of the RayJob or RayService whose nodes these are."""
    meta, status = owner["metadata"], owner.get("status") or {}
    about = f"{str(owner.get('kind', 'owner')).lower()}/{meta['name']}"
    found = []
    if status.get("jobDeploymentStatus") in ("ValidationFailed", "Failed"):
        reason = str(status.get("reason") or status["jobDeploymentStatus"])
        found.append(
            Evidence("operator", about, reason, str(status.get("message") or ""), instant(status.get("endTime")))
        )
    for condition in status.get("conditions") or []:
        refused = condition.get("reason") in ("ValidationFailed", "InitializingTimeout")
        if condition.get("type") == "Ready" and condition.get("status") == "False" and refused:
            at = instant(condition.get("lastTransitionTime"))
            found.append(Evidence("operator", about, condition["reason"], str(condition.get("message") or ""), at))
    made_since = [cluster] if cluster is not None else []
    for event in said(events, owner):
        if event.reason == "FailedToCreateRayCluster" and _made_since(event.at, made_since):
            continue
        if event.is_warning and now - event.at <= RECENT and not found:
            source: Literal["operator", "event"] = "operator" if event.reason.startswith(_INVALID) else "event"
            found.append(Evidence(source, about, event.reason, event.message, event.at, event.count))
    seen = status.get("jobDeploymentStatus") or status.get("conditions")
    made = instant(meta.get("creationTimestamp")) or now
    if not seen and not found and now - made > SILENCE:
        message = f"It was made {_seconds(now - made)} ago and the operator has not looked at it."
        found.append(Evidence("operator", about, "Silent", message, made))
    return found


def _of_cluster(cluster: Resource, pods: Sequence[Resource], now: datetime) -> list[Evidence]:
    meta, status = cluster["metadata"], cluster.get("status") or {}
    about = f"raycluster/{meta['name']}"
    found = []
    going = instant(meta.get("deletionTimestamp"))
    if going is not None and now - going > LEAVING:
        held = ", ".join(meta.get("finalizers") or []) or "none"
        message = f"It has been going for {_seconds(now - going)}; finalizers left: {held}; pods left: {len(pods)}."
        found.append(Evidence("cluster", about, "Terminating", message, going))
    for condition in status.get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            reason = str(condition.get("reason", "ReplicaFailure"))
            at = instant(condition.get("lastTransitionTime"))
            found.append(
                Evidence("cluster", about, reason, str(condition.get("message", "")), at, node=_REFUSED.get(reason))
            )
    if status.get("state") == "failed":
        message = str(status.get("reason") or "The operator calls the cluster failed.")
        found.append(Evidence("operator", about, "Failed", message, instant(status.get("lastUpdateTime"))))
    return found


def _heard(cluster: Resource, pods: Sequence[Resource], events: Sequence[Resource], now: datetime) -> list[Evidence]:
    """What was said of the RayCluster itself and is not outdated."""
    found = []
    about = f"raycluster/{cluster['metadata']['name']}"
    for event in said(events, cluster):
        if not _still_holds(event, cluster, pods, now):
            continue
        node = _REFUSED.get(event.reason) or _ENDED.get(event.reason)
        source: Literal["operator", "event"] = "operator" if event.reason.startswith(_INVALID) else "event"
        found.append(Evidence(source, about, event.reason, event.message, event.at, event.count, node))
    return found


def _still_holds(event: Said, cluster: Resource, pods: Sequence[Resource], now: datetime) -> bool:
    if now - event.at > RECENT:
        return False
    if event.reason in _ENDED:
        # The operator takes away a pod whose Ray has ended and makes another: its words are all that is left.
        node = _ENDED[event.reason]
        wanted = node == "head" or _wanted_workers(cluster) > 0
        return "ExitCode" in event.message and wanted and not any(of_pods.is_ready(p) for p in pods if _node(p) == node)
    if not event.is_warning:
        return False
    meta, status = cluster["metadata"], cluster.get("status") or {}
    if event.reason.startswith(_INVALID):
        changed = _last_changed(meta)
        # A spec that is refused is not acted on: whatever the status tells since then tells that it no longer is.
        acted = [instant(c.get("lastTransitionTime")) for c in status.get("conditions") or []]
        return (
            status.get("observedGeneration") != meta.get("generation")
            and (changed is None or event.at >= changed)
            and not any(at is not None and at >= event.at for at in acted)
        )
    if event.reason in _REFUSED:
        return not _made_since(event.at, [pod for pod in pods if _node(pod) == _REFUSED[event.reason]])
    return not (event.reason in _BEFORE_PODS and _made_since(event.at, pods))


def _made_since(at: datetime, things: Iterable[Resource]) -> bool:
    made = (instant(thing["metadata"].get("creationTimestamp")) for thing in things)
    return any(when is not None and when >= at for when in made)


def _of_operator(
    cluster: Resource, pods: Sequence[Resource], heard: Sequence[Evidence], now: datetime
) -> list[Evidence]:
    """Whether the operator has not done what any operator would have done by now."""
    meta, spec, status = cluster["metadata"], cluster.get("spec") or {}, cluster.get("status") or {}
    # What it has looked at and not done for a reason is told by the reason.
    conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or []}
    told = any(_tells_why(fact.reason) for fact in heard)
    if meta.get("deletionTimestamp") or told or conditions.get("ReplicaFailure") == "True":
        return []
    changed = _last_changed(meta) or instant(meta.get("creationTimestamp")) or now
    silent = ""
    if not status.get("conditions") and not status.get("state") and not pods:
        silent = "has not looked at it"
    elif spec.get("suspend") and pods and conditions.get("RayClusterSuspending") != "True":
        silent = "has not suspended it"
    elif not spec.get("suspend") and not any(_node(pod) == "head" for pod in pods):
        silent = "has made no head"
        changed = max([changed, *(at for pod in pods if (at := instant(pod["metadata"].get("deletionTimestamp"))))])
    if not silent or now - changed <= SILENCE:
        return []
    name = meta["name"]
    message = f"RayCluster '{name}' was written {_seconds(now - changed)} ago and the operator {silent}."
    return [Evidence("operator", f"raycluster/{name}", "Silent", message, changed)]


def _tells_why(reason: str) -> bool:
    """Whether what was said of a RayCluster is a reason for which it has no pods."""
    known = (*_REFUSED, *_BEFORE_PODS, *_ENDED, "AutoscalerServiceAccountNotFound")
    return reason in known or reason.startswith(_INVALID)


def _wanted_workers(cluster: Resource) -> int:
    """How many workers the operator is to keep now."""
    groups = (cluster.get("spec") or {}).get("workerGroupSpecs") or []
    return sum(max(int(g.get("replicas") or 0), int(g.get("minReplicas") or 0)) for g in groups if not g.get("suspend"))


def _of_autoscaler(
    cluster: Resource, pods: Sequence[Resource], demands: Sequence[str], now: datetime
) -> list[Evidence]:
    """What Ray's work asks for and the autoscaler can't or does not yet give."""
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
    """Whether a pending demand asks one node for more than any node of the cluster has."""
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
    """Kueue's verdict on a cluster's Workload, while it is not admitted."""
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
    """The resources of a ResourceQuota that are used up."""
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


def _newest_first(found: Iterable[Evidence]) -> list[Evidence]:
    """Each fact once, with the newest instant and the highest count of those that say the same."""
    kept: dict[tuple[str, str, str, str], Evidence] = {}
    for fact in found:
        key = (fact.source, fact.about, fact.reason, fact.message)
        old = kept.get(key)
        if old is None or _order(fact) > _order(old):
            kept[key] = fact
    return sorted(kept.values(), key=_order, reverse=True)


def _order(fact: Evidence) -> tuple[float, int]:
    return (fact.at.timestamp() if fact.at is not None else 0.0, fact.count)


def _node(pod: Resource) -> str:
    return str(pod["metadata"].get("labels", {}).get("ray.io/node-type", ""))


def _is_old(pod: Resource) -> bool:
    """Whether a pod is none of the cluster's any more: it has ended well."""
    return str(pod.get("status", {}).get("phase")) == "Succeeded"


def _is_old_enough(pods: Sequence[Resource], now: datetime) -> bool:
    """Whether every pod has had its time to start, so that a missing one is no news of this second."""
    made = [at for pod in pods if (at := instant(pod["metadata"].get("creationTimestamp")))]
    return bool(made) and now - max(made) > SILENCE


def _last_changed(meta: Resource) -> datetime | None:
    """When its spec was last changed, by anyone; None where the API does not tell."""
    fields = [f for f in meta.get("managedFields") or [] if "f:spec" in (f.get("fieldsV1") or {})]
    times = [instant(f.get("time")) for f in fields]
    return max((at for at in times if at is not None), default=None)


def _seconds(span: timedelta) -> str:
    return f"{max(0.0, span.total_seconds()):.0f} s"
