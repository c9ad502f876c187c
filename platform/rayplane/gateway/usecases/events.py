"""Events of workers: record each once, and apply it to objects, versions and lineage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from rayplane.errors import Conflict, InvalidInput, InvalidSpec, NotFound
from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import AnyObject, Job, TypedObject
from rayplane.gateway.usecases import lineage
from rayplane.gateway.usecases.job import job_of_attempt, reporting_cluster, require_on
from rayplane.gateway.usecases.objects import settle
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import FEATURE, JOB, by_kind
from rayplane.nouns.base import Record, Status, check_name, parse
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Edge, Event
from rayplane.nouns.feature import Materialization
from rayplane.nouns.job import JobSpec, Output
from rayplane.nouns.model import GateReport, ModelVersion
from rayplane.storage import layout

FEATURES = "features"
"""Name of the Feature object that a materialization creates if the team has none: a team has one Feast project."""


class OutputRecorded(Record):
    """A plain JSON value among a job's outputs."""

    name: str
    value: Any = None


class RunStarted(Record):
    """An attempt attached to its MLflow run."""

    run_id: str
    attempt: int = 1


class RunFinished(Record):
    """An MLflow run ended."""

    run_id: str
    status: str


class SourceObserved(Record):
    """The content of data outside the platform, hashed over its rows in canonical order."""

    name: str
    uri: str
    content_hash: str
    rows: int | None = None


@dataclass(frozen=True)
class _Report:
    """An event with the team and job that it came from, and its parsed record."""

    team: str
    event: Event
    record: BaseModel
    job: Job | None
    principal: Principal
    platform: Platform

    @property
    def store(self) -> Store:
        return self.platform.store


def ingest(team: str, batch: list[Event], *, principal: Principal, platform: Platform) -> int:
    """Record and apply events; return how many were new. A worker may send a batch again: known events change nothing.

    Each event is recorded and applied in its own transaction. Events that can't be parsed, or concern an object that is
    being deleted, are skipped; an InvalidInput names them once all others are recorded. Raises Forbidden, before
    anything is written, for a job of another cluster.
    """
    authorize(principal, "report", team)
    own = reporting_cluster(principal, platform)
    jobs = {event.submission_id: _job(team, event.submission_id, own, platform) for event in batch}
    batch = [event for event in batch if not _pass_on_hint(event, jobs[event.submission_id], platform)]
    jobs = {event.submission_id: jobs[event.submission_id] for event in batch}
    new, refused = 0, []
    for number, event in enumerate(batch):
        job_or_error = jobs[event.submission_id]
        try:
            if isinstance(job_or_error, InvalidInput):
                raise job_or_error
            new += _take(_Report(team, event, _understand(event), job_or_error, principal, platform))
        except (InvalidInput, Conflict) as exc:
            # A Conflict too: a job ends only after its events are taken, so a half-deleted object must not block it.
            refused.append(f"events[{number}] ({event.type} {event.id}): {exc}")
    for job in {j.metadata.uid: j for j in jobs.values() if isinstance(j, TypedObject)}.values():
        _refresh(team, job.metadata.uid, platform)
    if new:
        platform.wake()
    if refused:
        raise InvalidInput(
            f"{len(refused)} of {len(batch)} events can't be taken: {'; '.join(refused)}",
            remedy="All others are recorded. Use the same version of rayplane in the cluster and the gateway.",
            refused=refused,
        )
    return new


def _pass_on_hint(event: Event, job: Job | InvalidInput | None, platform: Platform) -> bool:
    """Handle an event that is only a hint for the reconciler; True if it was one. It is not recorded.

    A lost hint only delays the job's end until the reconciler's next regular look.
    """
    if event.type != "attempt.ended":
        return False
    if isinstance(job, TypedObject):
        platform.ended(job.metadata.uid)
    return True


def outputs_of(events: Iterable[Event]) -> list[Output]:
    """A job's outputs, from its events in order of time; of several of one kind and name, the last. Pure."""
    outputs: dict[tuple[str, str], Output] = {}
    for event in events:
        data = event.data
        if event.type == "dataset.published":
            output = Output(kind="dataset", name=data["name"], value=data["version"])
        elif event.type == "model.registered":
            output = Output(kind="model", name=data["name"], value=str(data["version"]))
        elif event.type == "run.started":
            output = Output(kind="run", name="run", value=data["run_id"])
        elif event.type == "output.recorded":
            output = Output(kind="value", name=data["name"], value=data.get("value"))
        else:
            continue
        outputs[output.kind, output.name] = output
    return list(outputs.values())


def _job(team: str, submission_id: str | None, own: AnyObject | None, platform: Platform) -> Job | InvalidInput | None:
    """The job that an event came from, None if it names none; an InvalidInput, not raised, if the team has no such job.

    Raises Forbidden if the job does not run on ``own``.
    """
    if submission_id is None:
        return None
    try:
        job, _ = job_of_attempt(submission_id, platform)
    except NotFound as exc:
        return InvalidInput(exc.detail)
    if job.metadata.team != team:
        return InvalidInput(f"Attempt '{submission_id}' is not of team '{team}'.")
    if own is not None:
        require_on(job, own)
    return job


def _understand(event: Event) -> BaseModel:
    return parse(_RECORDS[event.type], event.data, event.type)


def _take(report: _Report) -> bool:
    uid = report.job.metadata.uid if report.job else None
    with report.store.transaction():
        if not report.store.record_event(report.team, report.event, job_uid=uid):
            return False
        apply = _APPLY.get(report.event.type)
        if apply is not None:
            apply(report)
        return True


def _dataset_published(report: _Report) -> None:
    version = report.record
    assert isinstance(version, DatasetVersion)
    team, store = report.team, report.store
    _require_name(version.name)
    expected_uri = report.platform.storage.uri(layout.dataset_version(team, version.name, version.version))
    if version.team != team or version.uri != expected_uri:
        raise InvalidInput(f"dataset version '{version.uri}' of team '{version.team}' is not below '{expected_uri}'.")
    if report.job is not None:
        version = version.model_copy(update={"job": report.job.metadata.name})
    store.put_dataset_version(version, published_at=report.event.time)
    versions = store.list_dataset_versions(team, version.name)
    dataset = _object("Dataset", version.name, report)
    status = dataset.status_copy()
    status.latest, status.rows, status.versions = versions[0].version, versions[0].rows, len(versions)
    settle(dataset, status, report.platform)
    store.add_edges(team, lineage.of_version(version, version.job))
    _link_sources(report)


def _source_observed(report: _Report) -> None:
    _link_sources(report)


def _model_registered(report: _Report) -> None:
    version = report.record
    assert isinstance(version, ModelVersion)
    _require_name(version.name)
    model = _object("Model", version.name, report)
    status = model.status_copy()
    status.latest = max((v for v in (status.latest, version.version) if v is not None), key=_version_order)
    status.aliases.update(dict.fromkeys(version.aliases, version.version))
    settle(model, status, report.platform)
    node = lineage.model(version.name, version.version)
    report.store.add_edges(report.team, [Edge(source=lineage.run(version.run_id), target=node)])


def _features_materialized(report: _Report) -> None:
    record = report.record
    assert isinstance(record, Materialization)
    known = next(report.store.each(FEATURE, report.team), None)
    feature = _object("Feature", known.metadata.name if known else FEATURES, report)
    status = feature.status_copy()
    status.views = sorted({*status.views, *(v.view for v in record.views)})
    # Events may arrive late: an older materialization must not replace a newer one.
    status.materialized_at = max(filter(None, (status.materialized_at, record.created_at)))
    settle(feature, status, report.platform)
    report.store.add_edges(report.team, lineage.of_materialization(record))


def _lineage(report: _Report) -> None:
    assert isinstance(report.record, Edge)
    report.store.add_edges(report.team, [report.record])


_RECORDS: dict[str, type[BaseModel]] = {
    "dataset.published": DatasetVersion,
    "output.recorded": OutputRecorded,
    "run.started": RunStarted,
    "run.finished": RunFinished,
    "features.materialized": Materialization,
    "model.registered": ModelVersion,
    "gate.judged": GateReport,
    "source.observed": SourceObserved,
    "lineage": Edge,
}
_APPLY: dict[str, Callable[[_Report], None]] = {
    "dataset.published": _dataset_published,
    "source.observed": _source_observed,
    "model.registered": _model_registered,
    "features.materialized": _features_materialized,
    "lineage": _lineage,
}
# The other types concern only their job, whose status is recomputed from all of its events.


def _refresh(team: str, uid: str, platform: Platform) -> None:
    """Write the job's outputs to its status, recomputed from all of its recorded events.

    So the list is right even if a concurrent writer of the status wrote an older one back.
    """
    store = platform.store
    with store.transaction():
        job = store.get_by_uid(uid, JOB)
        events = store.events(team, [uid])
        spec, status = job.spec, job.status_copy()
        status.outputs = outputs_of(events)
        for report in (GateReport.model_validate(e.data) for e in events if e.type == "gate.judged"):
            failed = ", ".join(f"{c.metric} = {c.value} (must be {c.bound})" for c in report.checks if not c.passed)
            reason = "Passed" if report.passed else "Refused"
            status.set_condition("Gate", report.passed, reason, failed, job.metadata.generation)
        store.set_status(uid, status)
        run_ids = {o.value for o in status.outputs if o.kind == "run"} | ({status.run_id} if status.run_id else set())
        for run_id in sorted(run_ids):
            sources = [lineage.job(job.metadata.name), *(lineage.dataset(n, v) for n, v in spec.inputs.items())]
            store.add_edges(team, [Edge(source=source, target=lineage.run(run_id)) for source in sources])


def _link_sources(report: _Report) -> None:
    """Add edges from a job's observed sources to the datasets that it published, whichever event came first."""
    if report.job is None:
        return
    spec = report.job.spec
    if not spec.sources:
        return
    published = report.store.events(report.team, [report.job.metadata.uid], type="dataset.published")
    targets = sorted({lineage.dataset(e.data["name"], e.data["version"]) for e in published})
    observed = _observed(report.team, report.job, spec, report.store)
    nodes = [lineage.source(uri, observed[name]) for name, uri in sorted(spec.sources.items()) if name in observed]
    report.store.add_edges(report.team, [Edge(source=node, target=target) for node in nodes for target in targets])


def _observed(team: str, job: Job, spec: JobSpec, store: Store) -> dict[str, str]:
    """Source name -> content hash, observed by the job itself, else as ``<step>.<name>`` by one of its pipeline run."""
    hashes: dict[str, str] = {}
    if spec.pipeline is not None:
        pipeline, run, step = spec.pipeline.split("/", 2)
        siblings = [j.metadata.uid for j in store.each(JOB, team, labels={"pipeline": pipeline, "run": run})]
        for event in store.events(team, siblings, type="source.observed"):
            if event.data["name"].startswith(f"{step}."):
                hashes[event.data["name"].removeprefix(f"{step}.")] = event.data["content_hash"]
    for event in store.events(team, [job.metadata.uid], type="source.observed"):
        hashes[event.data["name"]] = event.data["content_hash"]
    return hashes


def _object(kind: str, name: str, report: _Report) -> AnyObject:
    """The object that an event concerns, created if the team does not have it yet.

    Raises Conflict if the object is being deleted.
    """
    store, team = report.store, report.team
    obj = store.get_or_none(kind, team, name)
    if obj is None:
        noun = by_kind(kind)
        status: Status = noun.status()
        owner = report.job.metadata.owner if report.job else report.principal.name
        spec = noun.spec().model_dump(mode="json")
        obj, _ = store.put(kind, team, name, spec, owner=owner, status=status)
        detail = {"event": report.event.id, "job": report.job.metadata.name if report.job else None}
        store.audit(report.principal.name, "report", kind=kind, team=team, name=name, detail=detail)
    if obj.metadata.deleted_at is not None:
        raise Conflict(
            f"{kind} '{team}/{name}' is being deleted.", remedy="Delete it once more, then run the job again."
        )
    return obj


def _require_name(name: str) -> None:
    try:
        check_name(name)
    except ValueError as exc:
        raise InvalidSpec(str(exc)) from exc


def _version_order(version: str) -> tuple[int, str]:
    return (int(version), version) if re.fullmatch("[0-9]{1,18}", version) else (-1, version)
