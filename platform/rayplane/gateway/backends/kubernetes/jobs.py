"""Attempts with nodes of their own as RayJobs: what the reconciler asks, turned into few calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from rayplane.gateway.backends.base import JobObservation, JobRef, LaunchContext, Submission
from rayplane.gateway.backends.kubernetes import own, pods, rayjob
from rayplane.gateway.backends.kubernetes.kinds import POD, RAYCLUSTER, RAYJOB, Object
from rayplane.gateway.backends.kubernetes.own import Shared
from rayplane.nouns.cluster import Nodes
from rayplane.nouns.job import JobSpec
from rayplane.nouns.team import Size

log = logging.getLogger(__name__)

KINDS = (RAYJOB, RAYCLUSTER, POD)


class Jobs:
    """RayJobs of the platform's. Thread-safe as long as no two threads act on one attempt."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def preflight(self, ref: JobRef, spec: JobSpec, size: Size) -> list[str]:
        """What KubeRay would refuse, or accept and not act on."""
        assert spec.nodes is not None  # there is nothing to check of a job on a cluster
        env = {"env_vars": spec.env} if spec.env else {}
        submission = Submission(spec.entrypoint, env, spec.metadata, spec.resources, spec.timeout)
        shared = self._shared
        manifest = rayjob.render(ref, spec.nodes, submission, LaunchContext(size=size), shared.settings, shared.root)
        return [*rayjob.refusals(spec.resources), *pods.refusals(size), *shared.wrong(manifest)]

    def ensure(self, ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext) -> None:
        """Apply its RayJob if there is none; one that is there stays as it is."""
        shared = self._shared
        shared.cache.require(*KINDS)
        held = self._held(ref)
        if held is not None and own.is_leaving(held):
            return
        if held is None:
            shared.forgive(shared.whose(ref))  # how an earlier attempt's head ended is none of this one's
            manifest = rayjob.render(ref, nodes, submission, launch, shared.settings, shared.root)
            held = own.apply(shared, RAYJOB, manifest, force=False)
            log.info("job %s: RayJob '%s' is applied", ref, held["metadata"]["name"])
        own.put_secrets(shared, RAYJOB, held, rayjob.owner_of(ref), launch.secrets, self._token(ref))

    def renew(self, ref: JobRef, secrets: Mapping[str, str]) -> None:
        """Change its Secret, if it holds others."""
        self._shared.cache.require(*KINDS)
        own.renew(self._shared, RAYJOB, self._held(ref), rayjob.owner_of(ref), secrets, self._token(ref))

    def observe(self, ref: JobRef) -> JobObservation:
        """What the watch told last."""
        shared = self._shared
        shared.cache.require(*KINDS)
        job, whose = self._held(ref), shared.whose(ref)
        name = str(job["status"].get("rayClusterName") or "") if job is not None else self._left_over(ref)
        cluster, held = own.look_at_cluster(shared, name, whose, shared.fall_of(whose))
        endpoint = None
        if job is not None and not own.is_leaving(job) and cluster.phase == "ready":
            endpoint = own.endpoint_of(shared, held, self._token(ref), rayjob.owner_of(ref), whose.namespace)
        environment = shared.environment() if endpoint is not None else None
        return rayjob.look(job, cluster, own.nodes_of(shared, whose), endpoint, environment)

    def delete(self, ref: JobRef) -> None:
        """Delete its RayJob, which is gone only when its pods are."""
        self._shared.cache.require(*KINDS)
        self._shared.forgive(self._shared.whose(ref))
        self._token(ref).unlink(missing_ok=True)
        held = self._held(ref)
        if held is not None:
            own.delete(self._shared, RAYJOB, held)

    def _held(self, ref: JobRef) -> Object | None:
        return self._shared.cache[RAYJOB].get(self._shared.settings.namespace(ref.team), rayjob.name_of(ref))

    def _left_over(self, ref: JobRef) -> str:
        """The RayCluster of an attempt whose RayJob is gone, if there still is one."""
        prefix, whose = f"{rayjob.name_of(ref)}-", self._shared.whose(ref)
        for obj in (*self._shared.cache[RAYCLUSTER].of(whose), *self._shared.cache[POD].of(whose)):
            name = str(obj["metadata"]["labels"].get(own.RAY_CLUSTER) or obj["metadata"]["name"])
            if name.startswith(prefix):
                return name
        return ""

    def _token(self, ref: JobRef) -> Path:
        return self._shared.token_path(ref.submission_id)
