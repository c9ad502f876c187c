"""Pipelines: checks of their specs and of their deletion, and their runs."""

from __future__ import annotations

import difflib
import re

from rayplane.errors import Conflict, InvalidSpec, NotFound, Refused
from rayplane.gateway.admission.env import check_env, check_names, check_values
from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.store import Page
from rayplane.gateway.store.typed import Pipeline, Run
from rayplane.gateway.usecases import packages
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import PIPELINE, RUN
from rayplane.nouns.base import MAX_NAME
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.pipeline import PipelineSpec, RunSpec, RunStatus

_REFERENCE = re.compile(r"\$\{([^}]*)\}")


def check(team: str, spec: PipelineSpec, platform: Platform) -> None:
    """Raise InvalidSpec for an unknown ``${parameter}``, a variable that a job may not have, or an unknown package.

    Raises Refused for a tracked step if the platform has no MLflow.
    """
    packages.check(team, spec.package, "pipeline.package", platform)
    check_names({"experiment": spec.experiment}, "pipeline")
    check_values(spec.parameters, "pipeline.parameters")
    for name, step in spec.steps.items():
        where = f"pipeline.steps.{name}"
        check_env(step.env, f"{where}.env")
        for field, values in (("sources", step.sources), ("parameters", step.parameters)):
            check_values(values, f"{where}.{field}")
            for key, value in values.items():
                for reference in _REFERENCE.findall(value):
                    _check_parameter(reference, spec, f"{where}.{field}.{key}")
        if step.tracked and platform.settings.mlflow_url is None:
            raise Refused(
                f"{where}.tracked: this platform has no MLflow.", remedy="Set RAYPLANE_MLFLOW_URL, or leave it out."
            )


def start_run(
    team: str, pipeline: str, parameters: dict[str, str], force: bool, *, principal: Principal, platform: Platform
) -> Run:
    """Create a run of the pipeline as it is now, named ``<pipeline>-<n>``, counting up.

    Raises NotFound for an unknown pipeline or cluster, InvalidSpec for an unknown parameter or package and for a
    pipeline that today's rules refuse, Conflict if the pipeline or cluster is being deleted.
    """
    authorize(principal, "write", team)
    platform.team(team)
    store = platform.store
    with store.transaction():
        wanted = store.get(PIPELINE, team, pipeline)
        if wanted.metadata.deleted_at is not None:
            raise Conflict(f"Pipeline '{team}/{pipeline}' is being deleted.", remedy="Apply it again, then run it.")
        spec = wanted.valid_spec()
        for name in parameters:
            _check_parameter(name, spec, "run.parameters")
        check_values(parameters, "run.parameters")
        packages.check(team, spec.package, "pipeline.package", platform)
        platform.cluster(team, spec.cluster)
        labels = {"pipeline": pipeline}
        run, _ = store.put(
            "PipelineRun",
            team,
            _new_name(team, pipeline, platform),
            RunSpec(pipeline=pipeline, parameters=parameters, force=force, snapshot=wanted.spec_data).model_dump(
                mode="json"
            ),
            labels=labels,
            owner=principal.name,
            status=RunStatus(),
        )
        status = wanted.status_copy()
        status.last_run = run.metadata.name
        store.set_status(wanted.metadata.uid, status)
        detail = {"run": run.metadata.name, "parameters": parameters, "force": force}
        store.audit(principal.name, "run", kind="Pipeline", team=team, name=pipeline, detail=detail)
    platform.wake()
    return run


def stop_run(team: str, pipeline: str, run: str, *, principal: Principal, platform: Platform) -> Run:
    """Ask a run to stop; one that has ended, or was asked before, stays as it is."""
    authorize(principal, "write", team)
    store = platform.store
    with store.transaction():
        stopping = _run(team, pipeline, run, platform)
        if stopping.status.phase in TERMINAL or stopping.spec.stop_requested:
            return stopping
        stopping = store.update_spec(stopping.metadata.uid, {**stopping.spec_data, "stop_requested": True})
        store.audit(principal.name, "stop", kind="PipelineRun", team=team, name=run)
    platform.wake()
    return stopping


def list_runs(
    team: str, pipeline: str, *, limit: int = 100, cursor: str | None = None, principal: Principal, platform: Platform
) -> Page[Run]:
    """A page of the pipeline's runs, oldest first; also of a deleted pipeline. Raises NotFound for an unknown one."""
    authorize(principal, "read", team)
    page = platform.store.list(RUN, team, labels={"pipeline": pipeline}, limit=limit, cursor=cursor)
    if not page.items:
        platform.store.get(PIPELINE, team, pipeline)
    return page


def get_run(team: str, pipeline: str, run: str, *, principal: Principal, platform: Platform) -> Run:
    """One run; raises NotFound, also for a run of another pipeline."""
    authorize(principal, "read", team)
    return _run(team, pipeline, run, platform)


def check_deletion(pipeline: Pipeline, platform: Platform) -> None:
    """Raise Conflict while a run of the pipeline has not ended."""
    team, name = pipeline.team, pipeline.metadata.name
    running = [
        run.metadata.name
        for run in platform.store.each(RUN, team, labels={"pipeline": name})
        if run.status.phase not in TERMINAL
    ]
    if running:
        raise Conflict(
            f"Run '{team}/{running[0]}' of pipeline '{name}' has not ended.",
            remedy=f"Wait for it, or stop it: rayplane pipeline stop {name} {running[0]} --team {team}",
        )


def _run(team: str, pipeline: str, run: str, platform: Platform) -> Run:
    obj = platform.store.get(RUN, team, run)
    if obj.spec.pipeline != pipeline:
        raise NotFound(
            f"Pipeline '{team}/{pipeline}' has no run '{run}'.",
            remedy=f"It is a run of '{obj.spec.pipeline}'.",
        )
    return obj


def _new_name(team: str, pipeline: str, platform: Platform) -> str:
    # Count deleted runs too: a run's name is the prefix of its jobs' names and appears in lineage, so none is reused.
    number = platform.store.count("PipelineRun", team, labels={"pipeline": pipeline}, removed=True)
    while True:
        number += 1
        suffix = f"-{number}"
        name = f"{pipeline[: MAX_NAME - len(suffix)].rstrip('-')}{suffix}"
        if platform.store.get_or_none(RUN, team, name) is None:
            return name


def _check_parameter(name: str, spec: PipelineSpec, where: str) -> None:
    if name in spec.parameters:
        return
    near = difflib.get_close_matches(name, spec.parameters, n=1, cutoff=0.5)
    known = ", ".join(sorted(spec.parameters)) or "none"
    raise InvalidSpec(
        f"{where}: parameter '{name}' is unknown.", remedy=f"Did you mean '{near[0]}'?" if near else f"Known: {known}."
    )
