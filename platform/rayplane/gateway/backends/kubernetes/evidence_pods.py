"""Extract the evidence of what holds up one pod: scheduling, images, configuration, crashes, probes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.backends.kubernetes.evidence_events import Said, instant
from rayplane.gateway.backends.kubernetes.kinds import is_gpu
from rayplane.nouns.base import parse_quantity

Resource = Mapping[str, Any]

_USUAL = ("ContainerCreating", "PodInitializing", "")
_ENDED_LATELY = timedelta(minutes=10)
"""Time after a crash within which a container that runs again, but is not ready, still counts as crashed."""
_LEAVING = timedelta(seconds=60)
_BEFORE_START = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedPodSandBoxStatus")
_VOLUME = re.compile(r'for volume "[^"]*"')
_BEGUN = ("Pulling", "Pulled", "Created")
"""Events that a kubelet sends only once volumes and sandbox are ready."""
_ALWAYS = ("Evicted", "Preempted", "TaintManagerEviction", "NodeNotReady", "FailedBinding", "ProvisioningFailed")
_NEVER_BEGAN = ("StartError", "ContainerCannotRun")
_LONGEST = 600


def evidence(pod: Resource, events: Sequence[Said], now: datetime) -> list[Evidence]:
    """Evidence about an existing pod; empty if it is healthy, or starts or ends as expected."""
    say = _Speaker(pod)
    going = instant(pod["metadata"].get("deletionTimestamp"))
    if going is not None:
        if now - going <= _LEAVING:
            return []
        return [say("Terminating", f"It has been going for {(now - going).total_seconds():.0f} s.", going)]
    facts = _of_scheduling(pod, events, say) + _of_phase(pod, say)
    for container in _statuses(pod):
        facts += _of_container(container, events, say, now)
    if not _has_started(pod):
        begun = max((e.at for e in events if e.reason in _BEGUN), default=None)
        before_start = [e for e in events if e.reason in _BEFORE_START and (begun is None or e.at > begun)]
        facts += [say(e.reason, e.message, e.at, e.count) for e in _last_tries(before_start)]
    disruptions = [e for e in events if e.is_warning and e.reason in _ALWAYS and not _has_recovered(pod, e.at)]
    facts += [say(e.reason, e.message, e.at, e.count) for e in disruptions]
    return facts + _of_readiness(pod, events, say, facts)


def _last_tries(events: Sequence[Said]) -> list[Said]:
    """The newest event of each volume, and all that name none: an earlier failure of the same volume is over."""
    tries: dict[tuple[str, str], Said] = {}
    for event in events:  # the newest first
        volume = _VOLUME.search(event.message)
        tries.setdefault((event.reason, volume[0] if volume else event.message), event)
    return list(tries.values())


def ray_resources(group: Resource | None) -> dict[str, float]:
    """Ray resources of a node of this group: its container's limits, unless ``rayStartParams`` override them."""
    containers = ((group or {}).get("template") or {}).get("spec", {}).get("containers") or [{}]
    limits = containers[0].get("resources", {}).get("limits") or {}
    gpus = sum(parse_quantity(amount) for name, amount in limits.items() if is_gpu(name))
    amounts = {"CPU": limits.get("cpu"), "memory": limits.get("memory"), "GPU": gpus}
    parameters = (group or {}).get("rayStartParams") or {}
    amounts |= {name: parameters[key] for name, key in (("CPU", "num-cpus"), ("GPU", "num-gpus")) if key in parameters}
    return {name: float(parse_quantity(value)) for name, value in amounts.items() if value is not None}


def is_ready(pod: Resource) -> bool:
    """True if the pod's probes succeed (condition ``Ready``)."""
    return bool(_condition(pod, "Ready").get("status") == "True")


def _has_recovered(pod: Resource, at: datetime) -> bool:
    """True if the pod is ready, and became so no earlier than ``at``."""
    since = instant(_condition(pod, "Ready").get("lastTransitionTime"))
    return is_ready(pod) and (since is None or at <= since)


class _Speaker:
    """Makes evidence about one pod."""

    def __init__(self, pod: Resource) -> None:
        self._about = f"pod/{pod['metadata']['name']}"
        kind = pod["metadata"].get("labels", {}).get("ray.io/node-type")
        self._node: Literal["head", "worker"] | None = kind if kind in ("head", "worker") else None

    def __call__(self, reason: str, message: str, at: datetime | None, count: int = 1) -> Evidence:
        return Evidence("pod", self._about, reason, message[:_LONGEST], at, count, self._node)


def _of_scheduling(pod: Resource, events: Sequence[Said], say: _Speaker) -> list[Evidence]:
    condition = _condition(pod, "PodScheduled")
    if pod.get("spec", {}).get("nodeName") or condition.get("status") != "False":
        return []
    event = next((e for e in events if e.reason == "FailedScheduling"), None)
    message = str(condition.get("message") or (event.message if event else ""))
    at = instant(condition.get("lastTransitionTime"))
    return [say(str(condition.get("reason") or "Unschedulable"), message, at, event.count if event else 1)]


def _of_phase(pod: Resource, say: _Speaker) -> list[Evidence]:
    status = pod.get("status", {})
    if status.get("phase") != "Failed" or not status.get("reason"):
        return []
    return [say(str(status["reason"]), str(status.get("message") or ""), instant(status.get("startTime")))]


def _of_container(container: Resource, events: Sequence[Said], say: _Speaker, now: datetime) -> list[Evidence]:
    name = str(container.get("name", ""))
    state, last = container.get("state") or {}, container.get("lastState") or {}
    ended = state.get("terminated") or last.get("terminated") or {}
    restarts = int(container.get("restartCount") or 0)
    waiting = state.get("waiting")
    if waiting is not None and waiting.get("reason", "") not in (*_USUAL, "CrashLoopBackOff"):
        reason = str(waiting["reason"])
        words, at, count = _detail(str(waiting.get("message") or ""), events, name)
        return [say(reason, f"container '{name}': {words}", at, count)]
    if not ended or (ended.get("exitCode") == 0 and not restarts):
        return []
    finished = instant(ended.get("finishedAt"))
    if "running" in state and (finished is None or now - finished > _ENDED_LATELY or container.get("ready")):
        return []  # it runs again
    if ended.get("reason") in _NEVER_BEGAN:
        return [say(str(ended["reason"]), f"container '{name}': {ended.get('message')}", finished, restarts + 1)]
    words = str(ended.get("message") or "").strip()[-_LONGEST // 2 :]
    message = f"container '{name}' ended with exit code {ended.get('exitCode')}" + (f": {words}" if words else "")
    reason = "OOMKilled" if ended.get("reason") == "OOMKilled" else "CrashLoopBackOff" if restarts else "Terminated"
    return [say(reason, message, finished, restarts + ("terminated" in state))]


def _detail(message: str, events: Sequence[Said], container: str) -> tuple[str, datetime | None, int]:
    """(message, time, count) of why a container waits: the longer of its own message and an event's."""
    failures = [e for e in events if e.is_warning and f"{{{container}}}" in e.field and e.reason == "Failed"]
    # Another event only repeats the reason: "Error: ErrImagePull". The longest says the most.
    words = max(failures, key=lambda e: len(e.message), default=None)
    if words is None:
        return message, None, 1
    if len(words.message) <= len(message):
        return message, words.at, words.count
    return words.message, words.at, words.count


def _of_readiness(pod: Resource, events: Sequence[Said], say: _Speaker, others: Sequence[Evidence]) -> list[Evidence]:
    """Evidence from failed probes of a pod whose containers run but that is not ready."""
    if others or is_ready(pod):
        return []
    # A worker's init container waits for the head: it runs, but has no probe of its own.
    unready = [c for c in _statuses(pod) if not c.get("ready") and "running" in (c.get("state") or {})]
    names = {str(c["name"]) for c in unready}
    probes = [e for e in events if e.reason == "Unhealthy" and any(f"{{{name}}}" in e.field for name in names)]
    if not probes:
        return []
    return [say("Unhealthy", probes[0].message, probes[0].at, sum(e.count for e in probes))]


def _statuses(pod: Resource) -> list[Resource]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _has_started(pod: Resource) -> bool:
    return any(
        "running" in (c.get("state") or {}) or "terminated" in (c.get("state") or {}) or c.get("restartCount")
        for c in _statuses(pod)
    )


def _condition(pod: Resource, type_: str) -> Resource:
    conditions = pod.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == type_), {})
