"""Translate an attempt with nodes of its own into a RayJob of KubeRay 1.6, and interpret its status. Pure.

KubeRay submits the entrypoint to Ray over HTTP (HTTPMode): this needs no further pod, and Ray uses the attempt's own
id. The platform makes the retries, each as another RayJob. Once it has kept the attempt's log it deletes the RayJob; if
the platform is down for long, KubeRay frees the nodes by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rayplane.gateway.backends.base import JobObservation, JobRef, LaunchContext, Node, Observation, Submission
from rayplane.gateway.backends.kubernetes import pods, raycluster
from rayplane.gateway.backends.kubernetes.kinds import MANAGED_BY, MANAGER, RAYJOB, TEAM, UID, Object, as_yaml
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.cluster import Endpoint, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import Resources

JOB = "rayplane.dev/job"
"""Label: name of the job."""
TTL = 1800
"""Seconds after its end at which KubeRay frees an attempt's nodes, if the platform has not."""
GRACE = 300
"""Seconds past the attempt's timeout after which KubeRay ends it, if the platform has not."""

# KubeRay would submit the job again to a head that it restarts, although the first run has had effects.
_ONE_HEAD = {"ray.io/disable-provisioned-head-restart": "true"}


@dataclass(frozen=True)
class JobOwner(pods.Owner):
    """The owner of an attempt's objects."""

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every object of this attempt."""
        return {MANAGED_BY: MANAGER, TEAM: self.team, JOB: self.name, UID: self.uid}


def name_of(ref: JobRef) -> str:
    """Name of the RayJob. It begins with a letter, as a DNS-1035 label must."""
    return f"job-{ref.submission_id}"


def owner_of(ref: JobRef) -> JobOwner:
    """The owner of an attempt's objects, with the name of its Secret."""
    return JobOwner(team=ref.team, name=ref.name, uid=ref.uid, secret=f"{name_of(ref)}-secrets")


def render(
    ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext, settings: KubernetesSettings, root: str
) -> Object:
    """The RayJob to apply. It carries no secret."""
    owner = owner_of(ref)
    spec: Object = {
        "submissionMode": "HTTPMode",
        "jobId": ref.submission_id,
        "entrypoint": submission.entrypoint,
        "metadata": dict(submission.metadata),
        "backoffLimit": 0,
        # Not deletionRules: they ignore a stopped job, and Kueue admits no job that has them.
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": TTL,
        "rayClusterSpec": raycluster.embedded(
            raycluster.cluster_spec(owner, nodes.as_cluster(), launch, settings, root)
        ),
    }
    # Redis keeps a head's tables for the next head, and an attempt never has a next one.
    spec["rayClusterSpec"].pop("gcsFaultToleranceOptions", None)
    if submission.runtime_env:
        spec["runtimeEnvYAML"] = as_yaml(submission.runtime_env)
    if submission.resources.cpu:
        spec["entrypointNumCpus"] = submission.resources.cpu
    if submission.resources.gpu:
        spec["entrypointNumGpus"] = submission.resources.gpu
    if submission.timeout is not None:
        spec["activeDeadlineSeconds"] = max(1, math.ceil(submission.timeout)) + GRACE
    return {
        "apiVersion": RAYJOB.api_version,
        "kind": RAYJOB.name,
        "metadata": {
            "name": name_of(ref),
            "namespace": settings.namespace(ref.team),
            "labels": owner.labels,
            "annotations": _ONE_HEAD,
        },
        "spec": spec,
    }


def trim(obj: Object) -> Object:
    """The part of a RayJob that the cache keeps: its labels and its status."""
    meta, status = obj["metadata"], obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    meta_fields = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    status_fields = ("jobStatus", "jobDeploymentStatus", "rayClusterName", "reason", "message", "startTime", "endTime")
    return {
        "kind": RAYJOB.name,
        "metadata": {
            **{key: meta[key] for key in meta_fields if key in meta},
            "annotations": {key: annotations[key] for key in (raycluster.SECRETS_HASH,) if key in annotations},
        },
        "status": {key: status[key] for key in status_fields if key in status},
    }


_Ended = Literal["succeeded", "failed", "stopped", "timed_out"]
_BY_JOB: dict[str, _Ended] = {"SUCCEEDED": "succeeded", "FAILED": "failed", "STOPPED": "stopped"}


def look(
    job: Object | None,
    cluster: Observation,
    nodes: tuple[Node, ...],
    endpoint: Endpoint | None,
    environment: Environment | None,
) -> JobObservation:
    """Observe an attempt from its RayJob and the observation of its RayCluster (``endpoint``: its Ray)."""
    if job is None:
        return JobObservation("stopping" if cluster.phase != "absent" else "absent", nodes=nodes)
    if job["metadata"].get("deletionTimestamp"):
        return JobObservation("stopping", message=cluster.message, nodes=nodes)
    status = job["status"]
    deployment = str(status.get("jobDeploymentStatus") or "")
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    facts = {"incarnation": cluster.incarnation, "endpoint": endpoint, "environment": environment, "nodes": nodes}
    ended = _ended(deployment, reason, str(status.get("jobStatus") or ""))
    if ended is not None:
        return JobObservation(ended, reason=reason, message=message, **facts)  # type: ignore[arg-type]
    # Until the job runs, KubeRay makes a missing RayCluster again, and the watch of pods may be ahead of its own.
    if cluster.phase == "failed" or (cluster.phase in ("stopping", "absent") and deployment == "Running"):
        message = cluster.message or "Its RayCluster was deleted."
        return JobObservation("lost", reason=cluster.reason or "HeadGone", message=message, nodes=nodes)
    if deployment == "Running":
        return JobObservation("running", reason=cluster.reason, message=cluster.message, **facts)  # type: ignore[arg-type]
    drift = "" if raycluster.SECRETS_HASH in job["metadata"]["annotations"] else "its Secret: not known to be there"
    return JobObservation("starting", *_why_not_yet(deployment, cluster), nodes=nodes, drift=drift)


def refusals(resources: Resources) -> list[str]:
    """Resources of a job that KubeRay can't pass on; empty if there is none."""
    if not resources.memory:
        return []
    what = "job.resources.memory: KubeRay can't pass an entrypoint's memory on to Ray."
    return [f"{what} Leave it out, or take a larger size."]


def _ended(deployment: str, reason: str, job: str) -> _Ended | None:
    if deployment == "ValidationFailed":
        return "failed"
    if deployment not in ("Complete", "Failed"):
        return None
    if reason in ("DeadlineExceeded", "PreRunningDeadlineExceeded"):
        return "timed_out"
    return _BY_JOB.get(job, "failed")


def _why_not_yet(deployment: str, cluster: Observation) -> tuple[str, str]:
    if deployment.startswith("Suspend"):
        return "Suspended", "It waits until its nodes are admitted."
    if not deployment:
        return "NotSeen", "The KubeRay operator has not looked at it yet."
    if cluster.phase == "absent":
        return "NodesStarting", "KubeRay has made no RayCluster for it yet."
    return cluster.reason or "NodesStarting", cluster.message or "Its nodes are starting."
