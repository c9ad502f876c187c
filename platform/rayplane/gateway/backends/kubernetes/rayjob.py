"""Translate an attempt with nodes of its own into a RayJob of KubeRay 1.6, and read back how it goes. Pure.

KubeRay hands the entrypoint to Ray over HTTP (HTTPMode): no further pod, and Ray knows the attempt by its own id.
Retries are the platform's: each is another RayJob. Once the attempt's log is kept the platform deletes its RayJob;
should it be away for long, KubeRay frees the nodes by itself.
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
"""Label: the name of the job."""
TTL = 1800
"""Seconds after its end at which KubeRay frees an attempt's nodes, if the platform has not."""
GRACE = 300
"""Seconds past the attempt's timeout after which KubeRay ends it, if the platform has not."""

# A head that is replaced would be handed the job a second time: what the first did is not undone by that.
_ONE_HEAD = {"ray.io/disable-provisioned-head-restart": "true"}


@dataclass(frozen=True)
class JobOwner(pods.Owner):
    """Whose the pods of an attempt are."""

    @property
    def labels(self) -> dict[str, str]:
        """What every object of this attempt carries."""
        return {MANAGED_BY: MANAGER, TEAM: self.team, JOB: self.name, UID: self.uid}


def name_of(ref: JobRef) -> str:
    """The RayJob's name. It begins with a letter, as a DNS-1035 label must."""
    return f"job-{ref.submission_id}"


def owner_of(ref: JobRef) -> JobOwner:
    """Whose the pods of an attempt are, and where its secrets are kept."""
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
        # Not deletionRules: they pass over a job that was stopped, and Kueue admits none that has them.
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": TTL,
        "rayClusterSpec": raycluster.embedded(
            raycluster.cluster_spec(owner, nodes.as_cluster(), launch, settings, root)
        ),
    }
    # The tables of a head are worth keeping only for the next one, and there is none.
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
    """What is kept of a RayJob: whose it is, and how it goes."""
    meta, status = obj["metadata"], obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    kept_meta = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    kept = ("jobStatus", "jobDeploymentStatus", "rayClusterName", "reason", "message", "startTime", "endTime")
    return {
        "kind": RAYJOB.name,
        "metadata": {
            **{key: meta[key] for key in kept_meta if key in meta},
            "annotations": {key: annotations[key] for key in (raycluster.SECRETS_HASH,) if key in annotations},
        },
        "status": {key: status[key] for key in kept if key in status},
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
    """What there is of an attempt: its RayJob, and what is seen of that one's cluster (``endpoint``: its Ray)."""
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
    # Before it runs, KubeRay makes a RayCluster that is missing; and its pods may be told of before it is.
    if cluster.phase == "failed" or (cluster.phase in ("stopping", "absent") and deployment == "Running"):
        message = cluster.message or "Its RayCluster was deleted."
        return JobObservation("lost", reason=cluster.reason or "HeadGone", message=message, nodes=nodes)
    if deployment == "Running":
        return JobObservation("running", reason=cluster.reason, message=cluster.message, **facts)  # type: ignore[arg-type]
    drift = "" if raycluster.SECRETS_HASH in job["metadata"]["annotations"] else "its Secret: not known to be there"
    return JobObservation("starting", *_why_not_yet(deployment, cluster), nodes=nodes, drift=drift)


def refusals(resources: Resources) -> list[str]:
    """What of a job KubeRay can't be told."""
    if not resources.memory:
        return []
    what = "job.resources.memory: KubeRay tells Ray of no memory for an entrypoint."
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
