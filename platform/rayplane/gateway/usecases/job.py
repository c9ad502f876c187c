"""Jobs: submit, stop, read the log; and what a worker of a job is told (RunContext)."""

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
from rayplane.gateway.usecases.platform import Platform, project_of, team_spec
from rayplane.gateway.usecases.rules import RULES
from rayplane.gateway.usecases.rules.draft import Draft, enforce
from rayplane.nouns import JOB
from rayplane.nouns.base import MAX_NAME, Object, check_name
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import TERMINAL, FeastAccess, JobSpec, JobStatus, MlflowAccess, RunContext
from rayplane.storage import layout

DEFAULT_EXPERIMENT = "jobs"
LOG_CHUNK = 2**20
"""The most bytes of a log that one answer holds."""

_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # no character that is taken for another


def submit(
    spec: JobSpec,
    *,
    team: str,
    name: str | None,
    labels: dict[str, str] | None = None,
    principal: Principal,
    platform: Platform,
) -> Object:
    """Want a job. The same spec again, under the same name or Ray-facing id on its cluster, answers with that job.

    ``labels`` None leaves those of a job that is there. Raises NotFound for an unknown team or cluster, InvalidSpec,
    Refused by admission, Unsupported for nodes of its own where there are none, Conflict if the name or id is another
    job's.
    """
    obj, change = place(spec, team=team, name=name, labels=labels, principal=principal, platform=platform)
    if change == "created":
        platform.wake()
    return obj


def place(
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
) -> tuple[Object, Change]:
    """Check a job and write it, once; ``commit=False`` only says what would be. Wakes no reconciler.

    Of a job that is there only the labels may change. Raises PreconditionFailed if it is not at version ``if_match``,
    or is there though it is to be ``if_absent``; else as ``submit`` does.
    """
    return prepare(
        spec, team=team, name=name, labels=labels, principal=principal, platform=platform,
        if_match=if_match, if_absent=if_absent, commit=commit,
    )()  # fmt: skip


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
) -> Callable[[], tuple[Object, Change]]:
    """Make all checks of a job that may take a while; answers with the rest of ``place``, for within a transaction."""
    authorize(principal, "write", team)
    owner = platform.team(team)
    if name is not None:
        _check_name(name)
    spec = tracking(spec, platform)
    wish = Wish(labels, if_match, if_absent)
    draft = Draft(JOB, name or _stem(spec.entrypoint), spec, owner, None, principal, platform)
    if known(spec, team, name, platform) is None:
        enforce(RULES["Job"].before(draft))

    def write() -> tuple[Object, Change]:
        with platform.store.transaction(commit=commit):
            # Only now does no other writer come between: the same request may have come twice at once.
            if (job := known(spec, team, name, platform)) is not None:
                return relabel(job, wish, principal, platform)
            named = replace(draft, name=name or _new_name(spec, team, platform))
            enforce(RULES["Job"].reserve(named))
            return put(named, wish), "created"

    return write


def stop(team: str, name: str, *, principal: Principal, platform: Platform, why: str = "") -> Object:
    """Ask a job to stop; one that has ended, or was asked before, stays as it is. ``why``: if no person asks it."""
    authorize(principal, "write", team)
    store = platform.store
    with store.transaction():
        job = store.get("Job", team, name)
        if job.status.get("phase") in TERMINAL or job.spec.get("stop_requested"):
            return job
        job = store.update_spec(job.metadata.uid, {**job.spec, "stop_requested": True})
        if why:
            job = store.set_status(job.metadata.uid, {**job.status, "stop_reason": why})
        store.audit(principal.name, "stop", kind="Job", team=team, name=name)
    platform.wake()
    return job


def logs(team: str, name: str, offset: int, *, principal: Principal, platform: Platform) -> tuple[bytes, int, bool]:
    """(bytes from ``offset``, where to go on, whether that is the end for good) of the job's kept log."""
    authorize(principal, "read", team)
    if offset < 0:
        raise InvalidInput(f"offset is {offset}.", remedy="Start at 0.")
    job = platform.store.get("Job", team, name)
    path = layout.job_log(team, job.metadata.uid)
    # A job ends only after its log is in, so what is read after its end was seen is all of it.
    ended = job.status.get("phase") in TERMINAL
    try:
        data = platform.storage.read_from(path, offset, LOG_CHUNK)
        size = platform.storage.size(path)
    except NotFound:
        return b"", offset, ended
    following = offset + len(data)
    return data, following, ended and following >= size


def find_by_submission_id(team: str, cluster: str | None, submission_id: str, *, platform: Platform) -> Object | None:
    """The job that Ray's clients know by this id on a cluster (None: on any): the id they gave, or the job's name."""
    store = platform.store
    if cluster is not None:
        found = store.find("Job", team, _external_id(cluster, submission_id))
    else:
        found = next((j for j in store.each("Job", team) if j.spec.get("submission_id") == submission_id), None)
    if found is not None:
        return found
    try:
        job = store.get("Job", team, submission_id)
    except NotFound:
        return None
    named = not job.spec.get("submission_id") and cluster in (None, job.spec.get("cluster"))
    return job if named else None


def read_by_submission_id(team: str, cluster: str, submission_id: str, *, platform: Platform) -> JobText | None:
    """What is kept of the job that Ray's clients know by this id on a cluster, for those who only pass it on."""
    external_id = _external_id(cluster, submission_id)
    return platform.store.job_of_ray(team, cluster, external_id, name=submission_id)


def run_context(submission_id: str | None, *, principal: Principal, platform: Platform) -> RunContext:
    """What a worker is told. ``submission_id`` is Ray's id of the attempt; None asks for the cluster's own context.

    Raises Unauthenticated for the token of a cluster that is gone, NotFound for an unknown attempt, Forbidden for one
    of another cluster.
    """
    own = reporting_cluster(principal, platform)
    if submission_id is None:
        if own is None:
            raise InvalidInput(
                "Only a cluster has a context of its own.", remedy="Send a submission id, or a cluster's token."
            )
        return _context(own, platform)
    job, attempt = job_of_attempt(submission_id, platform)
    team = job.metadata.team or ""
    authorize(principal, "read", team)
    if own is not None:
        require_on(job, own)
    on = job.spec.get("cluster")
    holder = job if on is None else platform.store.get("Cluster", team, str(on))
    spec, status = JobSpec.model_validate(job.spec), JobStatus.model_validate(job.status)
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


def job_of_attempt(submission_id: str, platform: Platform) -> tuple[Object, int]:
    """(job, attempt) of Ray's id ``<job uid>-<n>``; raises NotFound."""
    uid, _, number = submission_id.rpartition("-")
    unknown = NotFound(f"There is no attempt '{submission_id[:100]}' of a job.", remedy="It was deleted, or never was.")
    if not uid or re.fullmatch("[0-9]{1,9}", number) is None:
        raise unknown
    try:
        job = platform.store.get_by_uid(uid)
    except NotFound as exc:
        raise unknown from exc
    if job.kind != "Job":
        raise unknown
    return job, int(number)


def reporting_cluster(principal: Principal, platform: Platform) -> Object | None:
    """What a principal speaks for: a cluster, or a job or service with nodes of its own; None if for none of them.

    Raises Unauthenticated if it is gone, or ended.
    """
    if principal.cluster_uid is None:
        return None
    found: Object | None
    try:
        found = platform.store.get_by_uid(principal.cluster_uid)
    except NotFound:
        found = None
    if found is None or (found.kind == "Job" and found.status.get("phase") in TERMINAL):
        raise Unauthenticated(
            "This token's cluster is gone, and the token with it.",
            remedy="Run on a cluster that is there.",
            reason="unknown-token",
        )
    return found


def require_on(job: Object, own: Object) -> None:
    """Raise Forbidden unless the job runs on ``own``: its cluster, or itself where it has nodes of its own."""
    here = (
        job.spec.get("cluster") == own.metadata.name if own.kind == "Cluster" else job.metadata.uid == own.metadata.uid
    )
    if not here:
        title = f"Job '{job.metadata.team}/{job.metadata.name}'"
        raise Forbidden(f"{title} does not run on {own.kind.lower()} '{own.metadata.name}'.")


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except ValueError as exc:
        raise InvalidSpec(f"job.metadata.name: {exc}.") from exc


def tracking(spec: JobSpec, platform: Platform) -> JobSpec:
    """The spec, untracked where there is no MLflow; raises Refused if it says that it is to be tracked."""
    if platform.settings.mlflow_url is not None or not spec.tracked:
        return spec
    if "tracked" in spec.model_fields_set:
        raise Refused(
            "job.tracked: this platform has no MLflow.", remedy="Set RAYPLANE_MLFLOW_URL, or say tracked: false."
        )
    return spec.model_copy(update={"tracked": False})


def known(spec: JobSpec, team: str, name: str | None, platform: Platform) -> Object | None:
    """The job that this very request made before; raises Conflict if its name or Ray-facing id is another's."""
    found = None
    if name is not None:
        try:
            found = platform.store.get("Job", team, name)
        except NotFound:
            found = None
    if found is None and spec.submission_id is not None:
        found = platform.store.find("Job", team, _external_id(spec.cluster, spec.submission_id))
    if found is None:
        return None
    title = f"Job '{team}/{found.metadata.name}'"
    if found.metadata.deleted_at is not None:
        raise Conflict(f"{title} is being deleted.", remedy="Wait until it is gone, or choose another name.")
    if name not in (None, found.metadata.name):
        raise Conflict(f"{title} has the id '{spec.submission_id}' already.", remedy="Choose another submission id.")
    if _comparable(found.spec) != _comparable(spec.model_dump(mode="json")):
        by = f" (known to Ray's clients as '{spec.submission_id}')" if spec.submission_id else ""
        raise Conflict(
            f"{title}{by} is there with another spec, and a job's spec never changes.", remedy="Choose another name."
        )
    return found


@dataclass(frozen=True)
class Wish:
    """What a request wants of a job beside its spec."""

    labels: dict[str, str] | None
    if_match: int | None
    if_absent: bool


def relabel(job: Object, wish: Wish, principal: Principal, platform: Platform) -> tuple[Object, Change]:
    """The job that is there, with the labels that are wished for; raises PreconditionFailed as ``place`` says.

    To be called in a transaction.
    """
    team, name, store = job.metadata.team or "", job.metadata.name, platform.store
    version = job.metadata.resource_version
    check_precondition(f"Job '{team}/{name}'", version, if_match=wish.if_match, if_absent=wish.if_absent)
    labels = {**_pipeline_labels(JobSpec.model_validate(job.spec)), **(wish.labels or {})}
    if wish.labels is None or labels == job.metadata.labels:
        return job, "unchanged"
    obj, change = store.put("Job", team, name, job.spec, labels=labels, owner=principal.name, if_match=wish.if_match)
    store.audit(principal.name, "label", kind="Job", team=team, name=name, detail={"labels": labels})
    return obj, change


def _comparable(spec: dict[str, Any]) -> dict[str, Any]:
    # Read again, so that a spec kept by an older version compares equal in spite of fields that are new.
    return JobSpec.model_validate(spec).model_dump(mode="json", exclude={"stop_requested"})


def put(draft: Draft, wish: Wish) -> Object:
    """Write a job that is not there, with what follows from it. To be called in a transaction, after its checks."""
    spec: JobSpec = draft.spec
    team, store = draft.team, draft.platform.store
    status = RULES["Job"].first_status(draft)
    assert isinstance(status, JobStatus)
    job, _ = store.put(
        "Job",
        team,
        draft.name,
        spec.model_dump(mode="json"),
        labels={**_pipeline_labels(spec), **(wish.labels or {})},
        owner=draft.principal.name,
        if_match=wish.if_match,
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
    """A short name nobody has: the entrypoint's module or script, and six random characters."""
    stem = _stem(spec.entrypoint)
    while True:
        name = f"{stem}-{''.join(secrets.choice(_ALPHABET) for _ in range(6))}"
        try:
            platform.store.get("Job", team, name)
        except NotFound:
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


def _context(holder: Object, platform: Platform) -> RunContext:
    """What all on a cluster is told, or all on the nodes of a job's or a service's own."""
    settings, team = platform.settings, holder.metadata.team or ""
    known = holder.status.get("environment")
    mlflow = None
    if settings.mlflow_url is not None:
        mlflow = MlflowAccess(tracking_uri=settings.mlflow_url, workspace=platform.workspace(team))
    return RunContext(
        team=team,
        cluster=holder.metadata.name if holder.kind == "Cluster" else None,
        gateway_url=settings.url,
        storage_root=settings.root_uri,
        environment=None if known is None else Environment.model_validate(known),
        mlflow=mlflow,
        feast=_feast(holder, team, platform),
    )


def _feast(holder: Object, team: str, platform: Platform) -> FeastAccess:
    """One registry for all teams; where a team sees only its own folder of the storage root, one in there."""
    settings = platform.settings
    owner = platform.store.get("Team", "", team)
    project = project_of(owner)
    registry, online = settings.registry_url, settings.home_paths.feast_online(project)
    backend = holder.spec.get("backend") or team_spec(owner).backend
    own = platform.storage.local_path(layout.feast(team))
    if own is not None and Capability.TEAM in platform.readers(backend).capabilities:
        registry = settings.feast_registry_url or f"sqlite:///{own}/registry.db"
        online = Path(own, "online.db")
    return FeastAccess(project=project.replace("-", "_"), registry_url=registry, online_path=str(online))
