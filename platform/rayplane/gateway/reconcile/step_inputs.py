"""Read what a pipeline step's key is computed from beside its spec: sources' hashes, package, environment."""

from __future__ import annotations

from rayplane.gateway.backends.base import Reader
from rayplane.gateway.reconcile import inbox
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import CLUSTER, JOB, TEAM
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.pipeline import PipelineSpec
from rayplane.storage import layout


class StepInputs:
    """Inputs of a team's steps, as they are now."""

    def __init__(self, platform: Platform, team: str) -> None:
        self._platform = platform
        self._team = team

    def source_hashes(self, observing_job: str, step: str) -> dict[str, str]:
        """Source name of the step -> content hash, from the events of the run's observing job."""
        job = self._platform.store.get(JOB, self._team, observing_job)
        job_events, _ = inbox.read(self._platform.storage, self._team, job.metadata.uid)
        observations = [event.data for event in job_events if event.type == "source.observed"]
        hashes = {str(data.get("name")): str(data.get("content_hash")) for data in observations}
        return {name.removeprefix(f"{step}."): hash_ for name, hash_ in hashes.items() if name.startswith(f"{step}.")}

    def package(self, pipeline: PipelineSpec) -> bytes | None:
        """The pipeline's code package; None if it has none."""
        if pipeline.package is None:
            return None
        digest = pipeline.package.removeprefix("sha256:")
        return self._platform.storage.read(layout.package(self._team, digest))

    def environment(self, pipeline: PipelineSpec) -> str:
        """The key of the environment that the pipeline's cluster has."""
        spec = self._cluster(pipeline)
        environment = self.backend(pipeline).environment(spec)
        if environment is None:  # known only by observation, as for a cluster that others run
            cluster = self._platform.store.get(CLUSTER, self._team, pipeline.cluster)
            environment = cluster.status.environment
        return environment.key if environment else "unknown"

    def backend(self, pipeline: PipelineSpec) -> Reader:
        """The backend of the pipeline's cluster."""
        team = self._platform.store.get(TEAM, "", self._team).spec
        return self._platform.readers(self._cluster(pipeline).backend or team.backend)

    def _cluster(self, pipeline: PipelineSpec) -> ClusterSpec:
        return self._platform.store.get(CLUSTER, self._team, pipeline.cluster).spec
