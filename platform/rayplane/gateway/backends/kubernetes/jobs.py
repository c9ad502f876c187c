"""Attempts with nodes of their own as RayJobs: the reconciler's requests as few API calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from rayplane.gateway.backends.base import Evidence, JobObservation, JobRef, LaunchContext, ObjectRef, Submission
from rayplane.gateway.backends.kubernetes import owned_objects, pods, rayjob
from rayplane.gateway.backends.kubernetes.kinds import POD, RAYCLUSTER, RAYJOB, Object
from rayplane.gateway.backends.kubernetes.owned_objects import Shared
from rayplane.nouns.cluster import Nodes
from rayplane.nouns.job import JobSpec
from rayplane.nouns.team import Size

log = logging.getLogger(__name__)

KINDS = (RAYJOB, RAYCLUSTER, POD)


class Jobs:
    """The platform's RayJobs. Thread-safe as long as no two threads act on one attempt."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def preflight(self, ref: JobRef, spec: JobSpec, size: Size) -> list[str]:
        """Problems for which KubeRay would refuse the RayJob, or accept it and not act on it."""
        assert spec.nodes is not None  # a job on a cluster has no RayJob to check
        env = {"env_vars": spec.env} if spec.env else {}
        submission = Submission(spec.entrypoint, env, spec.metadata, spec.resources, spec.timeout)
        shared = self._shared
        manifest = rayjob.render(ref, spec.nodes, submission, LaunchContext(size=size), shared.settings, shared.root)
        return [*rayjob.refusals(spec.resources), *pods.refusals(size), *shared.problems_of(manifest)]

    def ensure(self, ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext) -> None:
        """Apply its RayJob if there is none; an existing one stays as it is."""
        shared = self._shared
        shared.cache.require(*KINDS)
        job = self._rayjob(ref)
        if job is not None and owned_objects.is_leaving(job):
            return
        if job is None:
            # The failure of an earlier attempt's head does not concern this one.
            shared.forget_head_failure(shared.owner_key(ref))
            manifest = rayjob.render(ref, nodes, submission, launch, shared.settings, shared.root)
            job = owned_objects.apply(shared, RAYJOB, manifest, force=False)
            log.info("job %s: RayJob '%s' is applied", ref, job["metadata"]["name"])
        owned_objects.put_secrets(shared, RAYJOB, job, rayjob.owner_of(ref), launch.secrets, self._token(ref))

    def renew(self, ref: JobRef, secrets: Mapping[str, str]) -> None:
        """Change its Secret, if it holds others: the kubelets bring that to the pods in a minute or two."""
        self._shared.cache.require(*KINDS)
        owned_objects.renew(self._shared, RAYJOB, self._rayjob(ref), rayjob.owner_of(ref), secrets, self._token(ref))

    def observe(self, ref: JobRef) -> JobObservation:
        """The attempt's state as the watch last reported it. Raises Unavailable once that is too old to rely on."""
        shared = self._shared
        shared.cache.require(*KINDS)
        job, owner_key = self._rayjob(ref), shared.owner_key(ref)
        name = str(job["status"].get("rayClusterName") or "") if job is not None else self._orphaned_cluster(ref)
        cluster, ray_pods = owned_objects.look_at_cluster(shared, name, owner_key, shared.head_failure_of(owner_key))
        endpoint = None
        if job is not None and not owned_objects.is_leaving(job) and cluster.phase == "ready":
            endpoint = owned_objects.endpoint_of(
                shared, ray_pods, self._token(ref), rayjob.owner_of(ref), owner_key.namespace
            )
        environment = shared.environment() if endpoint is not None else None
        return rayjob.look(job, cluster, owned_objects.nodes_of(shared, owner_key), endpoint, environment)

    def evidence(self, ref: ObjectRef) -> list[Evidence]:
        """Evidence about the pods and the RayJobs of all of its attempts, read from the API server now."""
        return self._shared.evidence(ref)

    def delete(self, ref: JobRef) -> None:
        """Delete its RayJob, which goes only after its pods."""
        self._shared.cache.require(*KINDS)
        self._shared.forget_head_failure(self._shared.owner_key(ref))
        self._token(ref).unlink(missing_ok=True)
        job = self._rayjob(ref)
        if job is not None:
            owned_objects.delete(self._shared, RAYJOB, job)

    def _rayjob(self, ref: JobRef) -> Object | None:
        return self._shared.cache[RAYJOB].get(self._shared.settings.namespace(ref.team), rayjob.name_of(ref))

    def _orphaned_cluster(self, ref: JobRef) -> str:
        """Name of the RayCluster that an attempt's deleted RayJob left behind; empty if there is none."""
        prefix, owner_key = f"{rayjob.name_of(ref)}-", self._shared.owner_key(ref)
        for obj in (*self._shared.cache[RAYCLUSTER].of(owner_key), *self._shared.cache[POD].of(owner_key)):
            name = str(obj["metadata"]["labels"].get(owned_objects.RAY_CLUSTER) or obj["metadata"]["name"])
            if name.startswith(prefix):
                return name
        return ""

    def _token(self, ref: JobRef) -> Path:
        return self._shared.token_path(ref.submission_id)
