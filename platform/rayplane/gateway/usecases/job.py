"""Jobs: submit, stop, read the log; and the RunContext that a job's worker gets."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayplane.errors import Conflict, Forbidden, InvalidInput, InvalidSpec, NotFound, Refused, Unauthenticated
from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.backends.base import Capability
from rayplane.gateway.store.objects import Change, check_precondition
from rayplane.gateway.store.texts import JobText
from rayplane.gateway.store.typed import AnyObject, Job
from rayplane.gateway.usecases.platform import Platform, feast_name, project_of
from rayplane.gateway.usecases.rules import RULES
from rayplane.gateway.usecases.rules.draft import Draft, enforce
from rayplane.nouns import CLUSTER, JOB, TEAM
from rayplane.nouns.base import MAX_NAME, check_name
from rayplane.nouns.job import TERMINAL, FeastAccess, JobSpec, JobStatus, MlflowAccess, RunContext
from rayplane.storage import layout

DEFAULT_EXPERIMENT = "jobs"
LOG_CHUNK = 2**20
"""Maximum bytes of a log in one answer."""

_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # no look-alikes such as 0 and o


def submit(
    spec: JobSpec,
    *,
    team: str,
    name: str | None,
    labels: dict[str, str] | None = None,
    principal: Principal,
    platform: Platform,
) -> Job:
    """Submit a job, or return the existing one with the same spec and the same name or Ray-facing id on its cluster.

    ``labels`` None leaves those of an existing job. Raises NotFound for an unknown team or cluster, InvalidSpec,
    Refused by admission, Unsupported for nodes of its own on a backend that has none, Conflict if the name or id
    belongs to another job.
    """
    submit_or_find = prepare(spec, team=team, name=name, labels=labels, principal=principal, platform=platform)
    obj, change = submit_or_find()
    if change == "created":
        platform.wake()
    return obj


def prepare(
    spec: JobSpec,
    *,
    team: str,
    name: str | None,
    labels: dict[str, str] | None,
    principal: Principal,
    platform: Platform,
    if_match: int | None = None,
    if_absent: bool = False,
    commit: bool = True,
) -> Callable[[], tuple[Job, Change]]:
    """Make the checks of a job that may be slow; return the rest, which may run in a transaction.

    The rest writes the job, or finds the existing one, of which only the labels may change; ``commit=False`` writes
    nothing. Neither wakes a reconciler. Both raise as ``submit`` does; the rest also PreconditionFailed if the job is
    not at version ``if_match``, or exists although ``if_absent``.
    """
    authorize(principal, "write", team)
    owner = platform.team(team)
    if name is not None:
        _check_name(name)
    spec = tracking(spec, platform)
    options = SubmitOptions(labels, if_match, if_absent)
    draft = Draft(JOB, name or _stem(spec.entrypoint), spec, owner, None, principal, platform, labels or {})
    existing = find_existing(spec, team, name, platform)
    if existing is None:
        enforce(RULES["Job"].before(draft))

    def write() -> tuple[Job, Change]:
        with platform.store.transaction(commit=commit):
            # Look again inside the transaction: the same request may have arrived twice at the same time.
            if (job := find_existing(spec, team, name, platform)) is not None:
                return relabel(job, options, principal, platform)
            if existing is not None:
                title = f"Job '{team}/{existing.metadata.name}'"
                raise Conflict(f"{title} was deleted meanwhile.", remedy="Submit it again to run it anew.")
            # The team as it is now: an admin may have lowered its quota, or deleted it, since.
            owner = platform.team(team)
            named = replace(draft, owner=owner, name=name or _new_name(spec, team, platform))
            enforce(RULES["Job"].reserve(named))
            return put(named, options), "created"

    return write


def stop(team: str, name: str, *, principal: Principal, platform: Platform, why: str = "") -> Job:
    """Ask a job to stop; one that has ended, or was asked before, stays as it is.

    ``why``: the reason, if the platform stops the job rather than a user.
    """
    authorize(principal, "write", team)
    store = platform.store
    with store.transaction():
        job = store.get(JOB, team, name)
        if job.status.phase in TERMINAL or job.spec.stop_requested:
            return job
        job = store.update_spec(job.metadata.uid, {**job.spec_data, "stop_requested": True})
        if why:
            job = store.set_status(job.metadata.uid, {**job.status_data, "stop_reason": why})
        store.audit(principal.name, "stop", kind="Job", team=team, name=name)
    platform.wake()
    return job


def logs(team: str, name: str, offset: int, *, principal: Principal, platform: Platform) -> tuple[bytes, int, bool]:
    """(bytes from ``offset``, offset of the next read, True if the log is complete) of the job's stored log."""
    authorize(principal, "read", team)
    if offset < 0:
        raise InvalidInput(f"offset is {offset}.", remedy="Start at 0.")
    job = platform.store.get(JOB, team, name)
    path = layout.job_log(team, job.metadata.uid)
    # The reconciler ends a job only after its log is stored, so a read after the end gets all of it.
    ended = job.status.phase in TERMINAL
    try:
        data = platform.storage.read_from(path, offset, LOG_CHUNK)
        size = platform.storage.size(path)
    except NotFound:
        return b"", offset, ended
    following = offset + len(data)
    return data, following, ended and following >= size


def find_by_submission_id(team: str, cluster: str | None, submission_id: str, *, platform: Platform) -> Job | None:
    """The job with this Ray-facing id (the client's own id, or the job's name) on a cluster (None: on any), if any."""
    store = platform.store
    if cluster is not None:
        match = store.find(JOB, team, _external_id(cluster, submission_id))
    else:
        match = next((j for j in store.each(JOB, team) if j.spec.submission_id == submission_id), None)
    if match is not None:
        return match
    job = store.get_or_none(JOB, team, submission_id)
    if job is None:
        return None
    named = not job.spec.submission_id and cluster in (None, job.spec.cluster)
    return job if named else None


def read_by_submission_id(team: str, cluster: str, submission_id: str, *, platform: Platform) -> JobText | None:
    """The stored text of the job with this Ray-facing id on a cluster, for callers that only pass it on; else None."""
    external_id = _external_id(cluster, submission_id)
    return platform.store.job_of_ray(team, cluster, external_id, name=submission_id)


def run_context(submission_id: str | None, *, principal: Principal, platform: Platform) -> RunContext:
    """The context that a worker gets. ``submission_id`` is Ray's id of the attempt; None asks for the cluster's own.

    Raises Unauthenticated for the token of a deleted cluster, InvalidInput for None without a cluster's token, NotFound
    for an unknown attempt, Forbidden for an attempt of another cluster.
    """
    own = reporting_cluster(principal, platform)
    if submission_id is None:
        if own is None:
            raise InvalidInput(
                "Only a cluster has a context of its own.", remedy="Send a submission id, or a cluster's token."
            )
        return _context(own, platform)
    job, attempt = job_of_attempt(submission_id, platform)
    team = job.team
    authorize(principal, "read", team)
    if own is not None:
        require_on(job, own)
    on = job.spec.cluster
    holder = job if on is None else platform.store.get(CLUSTER, team, on)
    spec, status = job.spec, job.status
    return _context(holder, platform).model_copy(
        update={
            "job": job.metadata.name,
            "job_uid": job.metadata.uid,
            "job_uri": platform.storage.uri(layout.job(team, job.metadata.uid)),
            "submission_id": submission_id,
            "attempt": attempt,
            "run_id": status.run_id,
            "experiment": experiment_of(spec),
            "parameters": spec.parameters,
            "inputs": spec.inputs,
            "sources": spec.sources,
            "values": spec.values,
            "pipeline": spec.pipeline,
            "git_commit": status.git_commit,
            "environment": status.environment,
        }
    )


def experiment_of(spec: JobSpec) -> str:
    """The MLflow experiment that the job's run belongs to: the one it names, else its pipeline's, else ``jobs``."""
    return spec.experiment or (spec.pipeline or DEFAULT_EXPERIMENT).split("/")[0]


def job_of_attempt(submission_id: str, platform: Platform) -> tuple[Job, int]:
    """(job, attempt) of Ray's id ``<job uid>-<n>``; raises NotFound."""
    uid, _, number = submission_id.rpartition("-")
    unknown = NotFound(
        f"There is no attempt '{submission_id[:100]}' of a job.", remedy="It was deleted, or never existed."
    )
    if not uid or re.fullmatch("[0-9]{1,9}", number) is None:
        raise unknown
    try:
        job = platform.store.get_by_uid(uid)
    except NotFound as exc:
        raise unknown from exc
    if job.kind != "Job":
        raise unknown
    return job, int(number)


def reporting_cluster(principal: Principal, platform: Platform) -> AnyObject | None:
    """The object whose token the principal uses: a cluster, or a job or service with nodes of its own; else None.

    Raises Unauthenticated if the object was deleted, or is a job that has ended.
    """
    if principal.cluster_uid is None:
        return None
    reporter: AnyObject | None
    try:
        reporter = platform.store.get_by_uid(principal.cluster_uid)
    except NotFound:
        reporter = None
    if reporter is None or (reporter.kind == "Job" and reporter.status.phase in TERMINAL):
        raise Unauthenticated(
            "This token's cluster is gone, so the token is no longer valid.",
            remedy="Use the token of an existing cluster.",
            reason="unknown-token",
        )
    return reporter


def require_on(job: Job, own: AnyObject) -> None:
    """Raise Forbidden unless the job runs on ``own``: its cluster, or itself where it has nodes of its own."""
    runs_there = (
        job.spec.cluster == own.metadata.name if own.kind == "Cluster" else job.metadata.uid == own.metadata.uid
    )
    if not runs_there:
        title = f"Job '{job.metadata.team}/{job.metadata.name}'"
        raise Forbidden(f"{title} does not run on {own.kind.lower()} '{own.metadata.name}'.")


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except ValueError as exc:
        raise InvalidSpec(f"job.metadata.name: {exc}.") from exc


def tracking(spec: JobSpec, platform: Platform) -> JobSpec:
    """The spec, untracked where the platform has no MLflow; raises Refused if it explicitly says ``tracked: true``."""
    if platform.settings.mlflow_url is not None or not spec.tracked:
        return spec
    if "tracked" in spec.model_fields_set:
        raise Refused(
            "job.tracked: this platform has no MLflow.", remedy="Set RAYPLANE_MLFLOW_URL, or say tracked: false."
        )
    return spec.model_copy(update={"tracked": False})


def find_existing(spec: JobSpec, team: str, name: str | None, platform: Platform) -> Job | None:
    """The job that the same submission created earlier, if any; raises Conflict if its name or id is another job's."""
    job = None if name is None else platform.store.get_or_none(JOB, team, name)
    if job is None and spec.submission_id is not None:
        job = platform.store.find(JOB, team, _external_id(spec.cluster, spec.submission_id))
    if job is None:
        return None
    title = f"Job '{team}/{job.metadata.name}'"
    if job.metadata.deleted_at is not None:
        raise Conflict(f"{title} is being deleted.", remedy="Wait until it is gone, or choose another name.")
    if name not in (None, job.metadata.name):
        raise Conflict(f"{title} has the id '{spec.submission_id}' already.", remedy="Choose another submission id.")
    if _comparable(job.spec) != _comparable(spec):
        by = f" (known to Ray's clients as '{spec.submission_id}')" if spec.submission_id else ""
        raise Conflict(
            f"{title}{by} is there with another spec, and a job's spec never changes.", remedy="Choose another name."
        )
    return job


@dataclass(frozen=True)
class SubmitOptions:
    """Labels and preconditions of a submission."""

    labels: dict[str, str] | None
    if_match: int | None
    if_absent: bool


def relabel(job: Job, options: SubmitOptions, principal: Principal, platform: Platform) -> tuple[Job, Change]:
    """Set the labels of an existing job if the options name any. Call it in a transaction.

    Raises PreconditionFailed as what ``prepare`` returns does.
    """
    team, name, store = job.team, job.metadata.name, platform.store
    version = job.metadata.resource_version
    check_precondition(f"Job '{team}/{name}'", version, if_match=options.if_match, if_absent=options.if_absent)
    labels = {**_pipeline_labels(job.spec), **(options.labels or {})}
    if options.labels is None or labels == job.metadata.labels:
        return job, "unchanged"
    obj, change = store.put(
        "Job", team, name, job.spec_data, labels=labels, owner=principal.name, if_match=options.if_match
    )
    store.audit(principal.name, "label", kind="Job", team=team, name=name, detail={"labels": labels})
    return obj, change


def _comparable(spec: JobSpec) -> dict[str, Any]:
    # Of the parsed spec, so that one stored by an older version compares equal although it lacks newer fields.
    return spec.model_dump(mode="json", exclude={"stop_requested"})


def put(draft: Draft, options: SubmitOptions) -> Job:
    """Write a new job and the effects of its creation. Call it in a transaction, after the checks."""
    spec: JobSpec = draft.spec
    team, store = draft.team, draft.platform.store
    status = RULES["Job"].first_status(draft)
    assert isinstance(status, JobStatus)
    job, _ = store.put(
        "Job",
        team,
        draft.name,
        spec.model_dump(mode="json"),
        labels={**_pipeline_labels(spec), **(options.labels or {})},
        owner=draft.principal.name,
        if_match=options.if_match,
        status=status,
        external_id=_external_id(spec.cluster, spec.submission_id) if spec.submission_id else None,
    )
    for effect in RULES["Job"].written(draft):
        job = effect(job)
    status.log_uri = draft.platform.storage.uri(layout.job_log(team, job.metadata.uid))
    job = store.set_status(job.metadata.uid, status)
    detail: dict[str, Any] = {"cluster": spec.cluster, "entrypoint": spec.entrypoint}
    if spec.nodes is not None:
        detail["nodes"] = spec.nodes.model_dump(mode="json")
    store.audit(draft.principal.name, "submit", kind="Job", team=team, name=job.metadata.name, detail=detail)
    return job


def _new_name(spec: JobSpec, team: str, platform: Platform) -> str:
    """A short unused name: the entrypoint's module or script, and six random characters."""
    stem = _stem(spec.entrypoint)
    while True:
        name = f"{stem}-{''.join(secrets.choice(_ALPHABET) for _ in range(6))}"
        if platform.store.get_or_none(JOB, team, name) is None:
            return name


def _stem(entrypoint: str) -> str:
    words = entrypoint.split()
    module = re.search(r"(?:^|\s)-m\s+([\w.]+)", entrypoint)
    script = next((word for word in words if word.endswith((".py", ".sh"))), None)
    text = module[1].rsplit(".", 1)[-1] if module else (script or words[0]).rsplit("/", 1)[-1].rsplit(".", 1)[0]
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return slug[: MAX_NAME - 20].strip("-") or "job"


def _external_id(cluster: str | None, submission_id: str) -> str:
    return f"{cluster or ''}/{submission_id}"


def _pipeline_labels(spec: JobSpec) -> dict[str, str]:
    if spec.pipeline is None:
        return {}
    return dict(zip(("pipeline", "run", "step"), spec.pipeline.split("/", 2), strict=False))


def _context(holder: AnyObject, platform: Platform) -> RunContext:
    """The context that all workers of ``holder`` share: of a cluster, or of a job or service with nodes of its own."""
    settings, team = platform.settings, holder.team
    mlflow = None
    if settings.mlflow_url is not None:
        mlflow = MlflowAccess(tracking_uri=settings.mlflow_url, workspace=platform.workspace(team))
    return RunContext(
        team=team,
        cluster=holder.metadata.name if holder.kind == "Cluster" else None,
        gateway_url=settings.url,
        storage_root=settings.root_uri,
        environment=holder.status.environment,
        mlflow=mlflow,
        feast=_feast(holder, team, platform),
    )


def _feast(holder: AnyObject, team: str, platform: Platform) -> FeastAccess:
    """The team's access to Feast: through the registry of all teams, or one in its own folder of the storage root.

    The latter on a backend whose teams see only that folder.
    """
    settings = platform.settings
    owner = platform.store.get(TEAM, "", team)
    project = project_of(owner)
    registry, online = settings.registry_url, settings.home_paths.feast_online(project)
    nodes = holder.spec if holder.kind == "Cluster" else holder.spec.nodes
    backend = (nodes and nodes.backend) or owner.spec.backend
    own = platform.storage.local_path(layout.feast(team))
    if own is not None and Capability.TEAM in platform.readers(backend).capabilities:
        registry = settings.feast_registry_url or f"sqlite:///{own}/registry.db"
        online = Path(own, "online.db")
    return FeastAccess(project=feast_name(project), registry_url=registry, online_path=str(online))
