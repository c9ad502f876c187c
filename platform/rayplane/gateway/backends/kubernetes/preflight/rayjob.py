"""Rules for a RayJob that its definition does not have: breaking one, it is accepted and never runs. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import formats, pods, raycluster
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, below, child, item, nearest, shown

MOST_NAME = raycluster.MOST_NAME - 6
"""The most characters of a job's name: the operator adds six for the name of its cluster."""

Object = dict[str, Any]

MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_CLUSTER = "ray.io/cluster"
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
"""Order of deletions: none may come before one to its left."""


def wrong(job: Object, old: Object | None) -> Iterator[Finding]:
    """Findings about a RayJob as the API server would store it; ``old`` is the present one, if any."""
    metadata = job["metadata"]
    yield from raycluster.name_wrong(metadata.get("name") or "", "RayJob", MOST_NAME)
    yield from raycluster.managed_by_unset(job, old)
    yield from spec_wrong(job.get("spec") or {}, metadata.get("annotations") or {}, "spec")


def spec_wrong(spec: Object, annotations: dict[str, str], path: str) -> Iterator[Finding]:
    """Findings about a job's spec in a RayJob or a RayCronJob."""
    yield from _cluster(spec, annotations, path)
    yield from _mode(spec, path)
    yield from _end(spec, path)
    yield from _deletion(spec, path)
    yield from _entrypoint(spec, path)
    if spec.get("submitterPodTemplate"):
        yield from pods.wrong(spec["submitterPodTemplate"], child(path, "submitterPodTemplate"))


def _cluster(spec: Object, annotations: dict[str, str], path: str) -> Iterator[Finding]:
    cluster, selector = spec.get("rayClusterSpec"), spec.get("clusterSelector") or {}
    where = child(path, "clusterSelector")
    if cluster is None and not selector:
        message = "the job has no cluster, and selects none"
        remedy = f"Describe one in 'rayClusterSpec', or name one: clusterSelector: {{{_CLUSTER}: name}}."
        yield Finding(child(path, "rayClusterSpec"), "ray.job-cluster", message, remedy)
    if selector and not selector.get(_CLUSTER):
        message = "does not name a cluster"
        remedy = f"Name the RayCluster under '{_CLUSTER}'."
        yield Finding(child(where, _CLUSTER), "ray.job-selector", message, remedy)
    if cluster is not None:
        field = child(path, "rayClusterSpec")
        if (cluster.get("authOptions") or {}).get("enableK8sTokenAuth"):
            message = "Kubernetes' own tokens don't work for jobs yet"
            remedy = "Leave it out: token authentication without it works."
            yield Finding(below(field, "authOptions.enableK8sTokenAuth"), "ray.k8s-auth", message, remedy)
        yield from raycluster.spec_wrong(cluster, annotations, field)


def _mode(spec: Object, path: str) -> Iterator[Finding]:
    mode, selector = spec.get("submissionMode") or MODES[0], spec.get("clusterSelector")
    where = child(path, "submissionMode")
    if mode not in MODES:
        message = f"{shown(mode)} is none of {', '.join(MODES)}"
        yield Finding(where, "ray.submission-mode", message, nearest(mode, MODES))
    if mode == "SidecarMode":
        if selector:
            message = "a sidecar can't submit to a cluster that is there already"
            yield Finding(where, "ray.sidecar", message, "Use HTTPMode or K8sJobMode, or leave out 'clusterSelector'.")
        for key in ("submitterPodTemplate", "submitterConfig"):
            if spec.get(key) is not None:
                message = "is not used by SidecarMode"
                yield Finding(child(path, key), "ray.sidecar", message, "Leave it out, or use K8sJobMode.")
        head = ((spec.get("rayClusterSpec") or {}).get("headGroupSpec") or {}).get("template") or {}
        policy = (head.get("spec") or {}).get("restartPolicy")
        if policy not in (None, "", "Never"):
            field = below(path, "rayClusterSpec.headGroupSpec.template.spec.restartPolicy")
            message = f"is '{policy}', and SidecarMode runs the job once in the head's pod"
            yield Finding(field, "ray.restart-policy", message, "Set it to Never, or leave it out.")
    retries = spec.get("backoffLimit") or 0
    for broken, why in ((selector, "on a cluster that is there already"), (mode == "InteractiveMode", f"in {mode}")):
        if broken and retries > 0:
            message = f"a job is not tried again {why}"
            yield Finding(child(path, "backoffLimit"), "ray.job-retries", message, "Set it to 0, or leave it out.")
    if retries < 0:
        message = f"{retries} is negative"
        yield Finding(child(path, "backoffLimit"), "ray.job-retries-negative", message, "Give 0 or more.")


def _end(spec: Object, path: str) -> Iterator[Finding]:
    shutdown, ttl = spec.get("shutdownAfterJobFinishes"), spec.get("ttlSecondsAfterFinished") or 0
    if ttl < 0:
        message = f"{ttl} is negative"
        yield Finding(child(path, "ttlSecondsAfterFinished"), "ray.ttl-negative", message, "Give 0 or more seconds.")
    elif ttl and not shutdown:
        message = "the cluster does not go when the job ends, so nothing waits these seconds"
        remedy = "Set 'shutdownAfterJobFinishes', or leave out the seconds."
        yield Finding(child(path, "ttlSecondsAfterFinished"), "ray.ttl-without-shutdown", message, remedy)
    if spec.get("suspend") and not shutdown:
        message = "only a job whose cluster goes with it can be suspended"
        yield Finding(child(path, "suspend"), "ray.job-suspend", message, "Set 'shutdownAfterJobFinishes'.")
    if spec.get("suspend") and spec.get("clusterSelector"):
        message = "a job on a cluster that is there already can't be suspended"
        yield Finding(child(path, "suspend"), "ray.job-suspend", message, "Suspend the cluster instead.")
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if (value := spec.get(key)) is not None and value <= 0:
            message = f"{value} is no time to run in"
            yield Finding(child(path, key), "ray.job-deadline", message, "Give 1 second or more, or leave it out.")


def _deletion(spec: Object, path: str) -> Iterator[Finding]:
    strategy, where = spec.get("deletionStrategy"), child(path, "deletionStrategy")
    if strategy is None:
        return
    rules = strategy.get("deletionRules") or []
    if rules and spec.get("shutdownAfterJobFinishes"):
        message = "deletion rules and 'shutdownAfterJobFinishes' exclude each other"
        remedy = "Leave out 'shutdownAfterJobFinishes': a rule with policy DeleteCluster does the same."
        yield Finding(child(where, "deletionRules"), "ray.rules-and-shutdown", message, remedy)
    if rules:
        yield from _rules(rules, spec, child(where, "deletionRules"))
    elif strategy.get("deletionRules") is None:
        yield from _legacy(strategy, spec, where)


def _rules(rules: list[Object], spec: Object, path: str) -> Iterator[Finding]:
    times: dict[tuple[str, str], dict[str, int]] = {}
    for index, rule in enumerate(rules):
        where, policy, condition = item(path, index), rule["policy"], rule["condition"]
        if problem := _policy_wrong(policy, spec):
            yield Finding(child(where, "policy"), "ray.deletion-policy", problem, "Use DeleteSelf or DeleteNone.")
            continue
        key = "jobStatus" if condition.get("jobStatus") is not None else "jobDeploymentStatus"
        same = times.setdefault((key, str(condition.get(key))), {})
        if policy in same:
            message = f"there is a rule already for {policy} at {condition.get(key)}"
            yield Finding(where, "ray.rule-twice", message, "Keep one of them.")
        same.setdefault(policy, condition.get("ttlSeconds") or 0)
    for (key, status), seconds in times.items():
        ordered = [(policy, seconds[policy]) for policy in _ORDER if policy in seconds]
        for (sooner, first), (later, second) in itertools.pairwise(ordered):
            if second < first:
                message = f"at {key} {status}, {later} after {second} s comes before {sooner} after {first} s"
                remedy = "Let DeleteWorkers come first, DeleteCluster next, DeleteSelf last."
                yield Finding(path, "ray.rule-order", message, remedy)


def _legacy(strategy: Object, spec: Object, path: str) -> Iterator[Finding]:
    for key in ("onSuccess", "onFailure"):
        policy = (strategy.get(key) or {}).get("policy")
        where = child(child(path, key), "policy")
        if policy is None:
            message = "required, and missing"
            yield Finding(where, "ray.deletion-policy", message, "Set it, or use 'deletionRules' instead of both.")
        elif problem := _policy_wrong(policy, spec):
            yield Finding(where, "ray.deletion-policy", problem, "Use DeleteSelf or DeleteNone.")
        elif policy == "DeleteNone" and spec.get("shutdownAfterJobFinishes"):
            message = "keeps what 'shutdownAfterJobFinishes' deletes"
            yield Finding(where, "ray.deletion-policy", message, "Leave out 'shutdownAfterJobFinishes'.")


def _policy_wrong(policy: str, spec: Object) -> str:
    if spec.get("clusterSelector") and policy in ("DeleteCluster", "DeleteWorkers"):
        return f"{policy} would take a cluster that the job only borrows"
    if policy == "DeleteWorkers" and raycluster.autoscaling(spec.get("rayClusterSpec")):
        return "DeleteWorkers does not work while the autoscaler is on"
    return ""


def _entrypoint(spec: Object, path: str) -> Iterator[Finding]:
    submitter = (spec.get("submitterPodTemplate") or {}).get("spec") or {}
    own_command = any(each.get("command") for each in submitter.get("containers") or [])
    needed = spec.get("submissionMode") != "InteractiveMode" and not own_command
    if needed and not (spec.get("entrypoint") or "").strip():
        message = "is empty: there is nothing to run"
        yield Finding(child(path, "entrypoint"), "ray.entrypoint", message, "Give the command of the job.")
    for key in ("entrypointNumCpus", "entrypointNumGpus"):
        if (value := spec.get(key)) is not None and value < 0:
            yield Finding(child(path, key), "ray.entrypoint-amount", f"{value} is negative", "Give 0 or more.")
    if value := spec.get("entrypointResources"):
        try:
            amounts = json.loads(value)
        except ValueError:
            amounts = None
        if not isinstance(amounts, dict):
            message = f"{shown(value)} is no JSON object"
            yield Finding(child(path, "entrypointResources"), "ray.entrypoint-amount", message, """Write '{"a": 1}'.""")
    yield from _runtime_env(spec.get("runtimeEnvYAML") or "", child(path, "runtimeEnvYAML"))


def _runtime_env(text: str, path: str) -> Iterator[Finding]:
    try:
        environment = formats.read_yaml(text)
    except formats.UnreadableYaml as error:
        yield Finding(path, "ray.runtime-env", error.message, error.remedy)
        return
    if environment is not None and not isinstance(environment, dict):
        message = f"is {shown(environment)}, no mapping"
        yield Finding(path, "ray.runtime-env", message, "Give fields of a runtime environment, such as pip: [numpy].")
