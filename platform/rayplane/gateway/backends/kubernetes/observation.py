"""Interpret the objects of a cluster: its phase, incarnation and nodes, and the reason why a head ended. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from rayplane.gateway.backends.base import Node, Observation
from rayplane.gateway.backends.kubernetes import pods
from rayplane.gateway.backends.kubernetes.kinds import UID, Object, instant, is_gpu
from rayplane.gateway.backends.kubernetes.raycluster import SECRETS_HASH
from rayplane.nouns.base import parse_quantity
from rayplane.nouns.cluster import Endpoint

NODE_TYPE = "ray.io/node-type"

_KEPT_META = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")
_KEPT_LABELS = (UID, NODE_TYPE, "ray.io/group", "ray.io/cluster", "rayplane.dev/team", "rayplane.dev/cluster")
_KEPT_STATUS = ("phase", "reason", "message", "podIP", "startTime", "conditions")
_KEPT_CONTAINER = ("name", "ready", "restartCount", "state", "lastState")


class HeadFailure(NamedTuple):
    """The end of a head pod, kept until the reconciler has handled it: KubeRay removes the pod within moments."""

    incarnation: str
    reason: str
    message: str


def trim_pod(pod: Object) -> Object:
    """The part of a pod that the cache keeps: its owner's labels, its requests and its status."""
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    labels = meta.get("labels") or {}
    containers = [{"name": c["name"], "resources": c.get("resources") or {}} for c in spec.get("containers") or []]
    statuses = {
        key: [{name: entry[name] for name in _KEPT_CONTAINER if name in entry} for entry in status[key]]
        for key in ("containerStatuses", "initContainerStatuses")
        if key in status
    }
    return {
        "kind": "Pod",
        "metadata": {
            **{key: meta[key] for key in _KEPT_META if key in meta},
            "labels": {key: labels[key] for key in _KEPT_LABELS if key in labels},
        },
        "spec": {"nodeName": spec.get("nodeName"), "containers": containers},
        "status": {**{key: status[key] for key in _KEPT_STATUS if key in status}, **statuses},
    }


def look(cluster: Object | None, cluster_pods: Sequence[Object], failure: HeadFailure | None) -> Observation:
    """Observe a cluster from its own RayCluster, if there is one, and its pods. The caller adds the endpoint."""
    nodes = tuple(node for pod in cluster_pods if (node := node_of(pod)) is not None)
    if cluster is None:
        if cluster_pods:
            return Observation(phase="stopping", message=f"{_count_of(cluster_pods)} still there.", nodes=nodes)
        return Observation(phase="absent")
    if _leaving(cluster):
        return Observation(phase="stopping", message=_remaining(cluster, cluster_pods), nodes=nodes)
    drift = cluster["drift"] or _missing_secret(cluster)
    if cluster["spec"]["suspend"]:
        if cluster_pods:
            message = f"It is being suspended: {_count_of(cluster_pods)} still there."
            return Observation(phase="stopping", message=message, nodes=nodes, drift=drift)
        return Observation(phase="suspended", drift=drift)
    if failure is not None:
        return Observation(
            "failed", failure.reason, failure.message, nodes=nodes, drift=drift, ended=failure.incarnation
        )
    pod = head(cluster_pods)
    if pod is None:
        reason, message = _why_no_head(cluster)
        return Observation(phase="starting", reason=reason, message=message, nodes=nodes, drift=drift)
    if ended(pod):
        reason, message = how_it_ended(pod)
        return Observation(phase="failed", reason=reason, message=message, nodes=nodes, drift=drift)
    incarnation = str(pod["metadata"]["uid"])
    if not is_ready(pod):
        reason, message = _why_not_ready(pod)
        return Observation("starting", reason, message, incarnation=incarnation, nodes=nodes, drift=drift)
    return Observation(phase="ready", incarnation=incarnation, nodes=nodes, drift=drift)


def endpoint(cluster_pods: Sequence[Object], token_path: str) -> Endpoint:
    """Endpoint of a ready cluster: the address of its head pod."""
    pod = head(cluster_pods)
    assert pod is not None  # a ready cluster has a head
    host = _host(pod)
    running = [p for p in cluster_pods if p["status"].get("podIP") and not ended(p)]
    return Endpoint(
        dashboard_url=f"http://{host}:{pods.DASHBOARD}",
        client_address=f"ray://{host}:{pods.CLIENT}",
        token_path=token_path,
        serve_url=f"http://{host}:{pods.SERVE}",
        metrics_targets=sorted(f"{_host(p)}:{pods.METRICS}" for p in running),
    )


def node_of(pod: Object, *, gone_at: datetime | None = None) -> Node | None:
    """The Ray node that a pod is or was; None for a pod that was never scheduled. ``gone_at``: when the pod vanished.

    The node counts the requests of its Ray container: an autoscaler beside it is the platform's, not the team's.
    """
    kind = pod["metadata"]["labels"].get(NODE_TYPE)
    if kind not in ("head", "worker") or not pod["spec"].get("nodeName"):
        return None
    containers = [c for c in pod["spec"]["containers"] if c["name"] in (pods.HEAD, pods.WORKER)]
    asked = containers[0]["resources"].get("requests") or {} if containers else {}
    return Node(
        id=pod["metadata"]["uid"],
        kind=kind,
        cpu=parse_quantity(asked.get("cpu", 0)),
        memory=parse_quantity(asked.get("memory", 0)),
        gpu=sum(parse_quantity(value) for key, value in asked.items() if is_gpu(key)),
        started_at=_started(pod),
        ended_at=_ended_at(pod) or gone_at,
    )


def is_news(before: Object | None, after: Object | None) -> bool:
    """True if a change of a RayCluster changes its observation.

    A new resource version alone is no news, nor a spec that was applied as the platform wants it: the reconciler would
    look in vain.
    """
    return before is None or after is None or _visible(before) != _visible(after)


def head_failure(before: Object | None, after: Object | None) -> HeadFailure | None:
    """The failure behind a change of a head pod: it failed, or was deleted while it ran. None for other changes."""
    if before is None or before["metadata"]["labels"].get(NODE_TYPE) != "head" or _ended_or_leaving(before):
        return None
    if after is not None and ended(after):
        return HeadFailure(after["metadata"]["uid"], *how_it_ended(after))
    if before["status"].get("phase") == "Running" and (after is None or _leaving(after)):
        message = f"The head pod '{before['metadata']['name']}' was deleted, with all that it ran."
        return HeadFailure(before["metadata"]["uid"], "HeadGone", message)
    return None


def head(cluster_pods: Sequence[Object]) -> Object | None:
    """The newest head pod that is not being deleted."""
    heads = [p for p in cluster_pods if p["metadata"]["labels"].get(NODE_TYPE) == "head" and not _leaving(p)]
    return max(heads, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), default=None)


def is_ready(pod: Object) -> bool:
    """True if a pod's probes say that its Ray answers."""
    condition = _condition(pod, "Ready")
    return condition is not None and condition["status"] == "True" and not ended(pod)


def ended(pod: Object) -> bool:
    """True if a pod, or the Ray container in it, has ended; neither is ever restarted."""
    return pod["status"].get("phase") in ("Failed", "Succeeded") or _terminated(pod) is not None


def how_it_ended(pod: Object) -> tuple[str, str]:
    """(reason, message) of a head pod that ended."""
    name, status, last = pod["metadata"]["name"], pod["status"], _terminated(pod) or {}
    said = str(status.get("message") or last.get("message") or "").strip()
    reason = str(last.get("reason") or status.get("reason") or "HeadDied")
    how = f" with exit code {last['exitCode']}" if "exitCode" in last else ""
    if reason == "OOMKilled":
        said = said or "It used more memory than its size has. Choose a larger size."
    return _reason(reason), f"The head pod '{name}' ended{how} ({reason}). {said}".strip()


def _visible(cluster: Object) -> tuple[object, ...]:
    meta = cluster["metadata"]
    identity = meta["uid"], (meta.get("labels") or {}).get(UID), _leaving(cluster), meta.get("finalizers")
    return *identity, cluster["spec"]["suspend"], cluster["status"], cluster["drift"], _missing_secret(cluster)


def _ended_or_leaving(pod: Object) -> bool:
    return ended(pod) or _leaving(pod)


def _leaving(obj: Object) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def _missing_secret(cluster: Object) -> str:
    return "" if SECRETS_HASH in cluster["metadata"]["annotations"] else "its Secret: not known to be there"


def _remaining(cluster: Object, cluster_pods: Sequence[Object]) -> str:
    finalizers = [f for f in cluster["metadata"].get("finalizers") or [] if f != "foregroundDeletion"]
    if cluster_pods:
        return f"It is being deleted: {_count_of(cluster_pods)} still there."
    return f"It is being deleted and waits for {', '.join(finalizers)}." if finalizers else "It is being deleted."


def _why_no_head(cluster: Object) -> tuple[str, str]:
    for condition in cluster["status"].get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return _reason(str(condition.get("reason"))), str(condition.get("message"))
    if not cluster["status"]:
        return "NotSeen", "The KubeRay operator has not looked at it yet."
    return "NoHead", "KubeRay has made no head pod yet."


def _why_not_ready(pod: Object) -> tuple[str, str]:
    name = pod["metadata"]["name"]
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is not None and scheduled["status"] == "False":
        return _reason(str(scheduled.get("reason"))), f"No node takes the head pod '{name}': {scheduled.get('message')}"
    for entry in pod["status"].get("containerStatuses") or []:
        waiting = (entry.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return _reason(str(waiting["reason"])), f"Container '{entry['name']}' of '{name}': {waiting.get('message')}"
    return "Starting", f"The head pod '{name}' is {str(pod['status'].get('phase') or 'Pending').lower()}, not ready."


def _condition(pod: Object, kind: str) -> Object | None:
    return next((c for c in pod["status"].get("conditions") or [] if c["type"] == kind), None)


def _terminated(pod: Object) -> Object | None:
    for entry in pod["status"].get("containerStatuses") or []:
        if entry["name"] in (pods.HEAD, pods.WORKER) and (entry.get("state") or {}).get("terminated"):
            state: Object = entry["state"]["terminated"]
            return state
    return None


def _started(pod: Object) -> datetime:
    scheduled = _condition(pod, "PodScheduled")
    at = scheduled.get("lastTransitionTime") if scheduled is not None and scheduled["status"] == "True" else None
    return instant(at or pod["status"].get("startTime") or pod["metadata"]["creationTimestamp"])


def _ended_at(pod: Object) -> datetime | None:
    """End of a pod that ended: the end of its last container, since the pod holds its resources until then."""
    if pod["status"].get("phase") not in ("Failed", "Succeeded"):
        return None
    states = [(entry.get("state") or {}).get("terminated") for entry in pod["status"].get("containerStatuses") or []]
    times = [instant(state["finishedAt"]) for state in states if state and state.get("finishedAt")]
    times += [instant(c["lastTransitionTime"]) for c in [_condition(pod, "Ready")] if c and c["status"] == "False"]
    return max(times, default=None)


def _host(pod: Object) -> str:
    address = str(pod["status"]["podIP"])
    return f"[{address}]" if ":" in address else address


def _count_of(cluster_pods: Sequence[Object]) -> str:
    names = [f"'{pod['metadata']['name']}'" for pod in cluster_pods]
    return f"pod {names[0]} is" if len(names) == 1 else f"{len(names)} pods are"


def _reason(reason: str) -> str:
    return reason if reason.isidentifier() else "HeadDied"
