"""Rules of Kueue 0.19 for a RayCluster, RayJob or RayService with the label of a queue. Pure.

Kueue refuses a violation by a webhook, in the answer to the request; without Kueue the label has no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import names
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, below, child, item

QUEUE = "kueue.x-k8s.io/queue-name"
"""Label that puts an object into a queue of Kueue."""
ELASTIC = "kueue.x-k8s.io/elastic-job"
"""Annotation of an object that may change its size, and name of the scheduling gate of its pods."""
_MOST_GROUPS = 17
_CLUSTER = {"RayCluster": "spec", "RayJob": "spec.rayClusterSpec", "RayService": "spec.rayClusterConfig"}

Object = dict[str, Any]


def wrong(manifest: Object, old: Object | None) -> Iterator[Finding]:
    """Findings about what Kueue refuses; none without the label of a queue."""
    metadata, spec, kind = manifest["metadata"], manifest.get("spec") or {}, manifest["kind"]
    queue = (metadata.get("labels") or {}).get(QUEUE)
    before = ((old or {}).get("metadata", {}).get("labels") or {}).get(QUEUE)
    if before and queue != before and not spec.get("suspend"):
        message = f"is '{before}' and can't change while it runs"
        yield Finding(child("metadata.labels", QUEUE), "kueue.queue", message, "Suspend it first.")
    if not queue:
        return
    if problem := names.subdomain(queue):
        message = f"the queue '{queue}' {problem}"
        yield Finding(child("metadata.labels", QUEUE), "kueue.queue", message, names.SUBDOMAIN_REMEDY)
    elastic = (metadata.get("annotations") or {}).get(ELASTIC) == "true"
    path = _CLUSTER[kind]
    cluster = spec if kind == "RayCluster" else spec.get(path.rpartition(".")[2])
    if kind == "RayJob":
        yield from _job(spec, cluster)
        if spec.get("clusterSelector"):
            return
    if cluster is not None:
        yield from _cluster(cluster, path, elastic=elastic, gated=kind == "RayCluster")


def _job(spec: Object, cluster: Object | None) -> Iterator[Finding]:
    if spec.get("clusterSelector"):
        if cluster is not None:
            message = "a job of a queue can't use a cluster that is there already"
            yield Finding("spec.clusterSelector", "kueue.selector", message, "Leave it out, or leave out the queue.")
        return
    if not spec.get("shutdownAfterJobFinishes"):
        message = "the cluster of a queue's job must go with it, to give the quota back"
        remedy = "Set 'shutdownAfterJobFinishes' (without 'deletionRules', which exclude it)."
        yield Finding("spec.shutdownAfterJobFinishes", "kueue.shutdown", message, remedy)


def _cluster(cluster: Object, path: str, *, elastic: bool, gated: bool) -> Iterator[Finding]:
    groups = cluster.get("workerGroupSpecs") or []
    if cluster.get("enableInTreeAutoscaling") and not elastic:
        message = "a queue's cluster is of one size, unless it is elastic"
        remedy = f"Set the annotation {ELASTIC}: 'true' and its scheduling gate on every template, or turn it off."
        yield Finding(child(path, "enableInTreeAutoscaling"), "kueue.autoscaling", message, remedy)
    if len(groups) > _MOST_GROUPS:
        message = f"has {len(groups)} groups, and a queue takes {_MOST_GROUPS}"
        yield Finding(child(path, "workerGroupSpecs"), "kueue.groups", message, "Use fewer worker groups.")
    for index, group in enumerate(groups):
        if group.get("groupName") == "head":
            field = child(item(child(path, "workerGroupSpecs"), index), "groupName")
            message = "'head' is the head's own name in a queue"
            yield Finding(field, "kueue.group-head", message, "Call the group something else.")
    if elastic and gated:
        named = [("headGroupSpec", cluster["headGroupSpec"])]
        named += [(f"workerGroupSpecs[{index}]", group) for index, group in enumerate(groups)]
        for name, group in named:
            gates = (group["template"].get("spec") or {}).get("schedulingGates") or []
            if {"name": ELASTIC} not in gates:
                field = below(path, f"{name}.template.spec.schedulingGates")
                message = "an elastic cluster's pods wait for their quota"
                yield Finding(field, "kueue.gate", message, f"Add {{name: {ELASTIC}}}.")
