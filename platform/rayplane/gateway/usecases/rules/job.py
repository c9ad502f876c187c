"""The rules of jobs."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.errors import RayplaneError
from rayplane.gateway.admission import quota
from rayplane.gateway.admission.env import check_names, check_values
from rayplane.gateway.admission.versions import declared_by, require_match
from rayplane.gateway.store.typed import Cluster, Team
from rayplane.gateway.usecases import nodes, packages
from rayplane.gateway.usecases.cluster import backend_of
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.gateway.usecases.rules.hosted import HostedRules
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import UNFINISHED, JobSpec, JobStatus

GIT_COMMIT = "rayplane.git_commit"
"""Key of a job's metadata under which a client names the git commit of the code."""


class JobRules(HostedRules):
    """A job runs on a cluster of its team or on nodes of its own, whose environment matches the declared one."""

    def before(self, draft: Draft) -> Iterator[Check]:
        yield from super().before(draft)
        yield from _content(draft.spec, draft)

    def reserve(self, draft: Draft) -> Iterator[Check]:
        spec: JobSpec = draft.spec
        owner, platform = draft.owner, draft.platform
        assert owner is not None
        yield from super().reserve(draft)
        yield Check("environment", lambda: _require_environment(draft))
        yield Check("jobs", lambda: _check_number(owner, draft.name, platform))
        if spec.nodes is not None:
            wanted = nodes.demand(spec.nodes.as_cluster(), draft.of_team)
            yield Check("quota", lambda: nodes.check_quota(owner, "Job", draft.name, wanted, None, platform))

    def first_status(self, draft: Draft) -> JobStatus:
        return JobStatus(environment=environment_of(draft), git_commit=draft.spec.metadata.get(GIT_COMMIT))


def environment_of(draft: Draft) -> Environment | None:
    """The environment of the job's cluster or own nodes; None if it is unknown, or if the cluster does not exist."""
    spec: JobSpec = draft.spec
    assert draft.owner is not None
    try:
        if spec.nodes is not None:
            return nodes.environment(spec.nodes, draft.owner, draft.platform)
        assert spec.cluster is not None
        return _environment(draft.platform.cluster(draft.team, spec.cluster), draft.owner, draft.platform)
    except RayplaneError:
        return None  # the check of the cluster or nodes reports it


def _require_environment(draft: Draft) -> None:
    environment = environment_of(draft)
    target = "The job's own nodes" if draft.spec.nodes is not None else f"Cluster '{draft.team}/{draft.spec.cluster}'"
    if environment is not None:
        require_match(declared_by(draft.spec.metadata), environment, what=target)


def _environment(cluster: Cluster, owner: Team, platform: Platform) -> Environment | None:
    known = cluster.status.environment
    if known is not None:
        return known
    spec = cluster.spec
    return platform.readers(backend_of(spec, owner.spec)).environment(spec)


def _content(spec: JobSpec, draft: Draft) -> Iterator[Check]:
    """Checks of the package, and of names and values that a job may not have."""
    yield Check("package", lambda: packages.check(draft.team, spec.package, "job.package", draft.platform))
    names = {"experiment": spec.experiment, "pipeline": spec.pipeline, "submission_id": spec.submission_id}
    yield Check("names", lambda: check_names(names, "job"))
    for where, values in (
        ("job.parameters", spec.parameters),
        ("job.metadata", spec.metadata),
        ("job.sources", spec.sources),
        ("job.pip", {str(index): item for index, item in enumerate(spec.pip)}),
        ("job", {"entrypoint": spec.entrypoint}),
    ):
        yield Check("values", lambda where=where, values=values: check_values(values, where))  # type: ignore[misc]


def _check_number(owner: Team, name: str, platform: Platform) -> None:
    """Raise Refused if the team has as many unfinished jobs as its quota allows."""
    limits = owner.spec.quota
    if limits.jobs is None:
        return
    others = platform.store.count("Job", owner.metadata.name, phases=UNFINISHED)
    quota.require_job(limits, others, what=f"Job '{owner.metadata.name}/{name}'")
