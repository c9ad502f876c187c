"""Run pipelines as durable DBOS workflows over jobs: one child workflow per step, every effect idempotent.

A run's workflow id is its uid, a step's is ``<uid>/<step>``. After a crash the next process, with the same executor id,
continues after the last finished DBOS step. It repeats the unfinished one, which then finds the job of the same name.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowHandle

from rayplane import plugins
from rayplane.errors import Conflict, Failed, RayplaneError, Refused, Unavailable
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.reconcile.starts import Starts, ranks
from rayplane.gateway.reconcile.step_cache import StepCache
from rayplane.gateway.reconcile.step_inputs import StepInputs
from rayplane.gateway.reconcile.step_key import code_closure, resolve, step_key, values_of
from rayplane.gateway.store.typed import Run
from rayplane.gateway.usecases import job as jobs
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import JOB, RUN
from rayplane.nouns.base import MAX_NAME, utcnow
from rayplane.nouns.job import TERMINAL, JobSpec, JobStatus, Output
from rayplane.nouns.pipeline import PipelineSpec, RunSpec, RunStatus, StepResult, StepRun

log = logging.getLogger(__name__)

EXECUTOR = "rayplane-leader"
# DBOS recovers workflows of the same application version. It stays the same while the workflows below keep their order
# of steps, so that a newer rayplane finishes the runs that an older one began.
WORKFLOW_VERSION = "1"
OBSERVE = "observe"

ROOM = 5.0
"""Seconds after which a step is submitted again if its team's quota of jobs was full."""
# A DBOS step is retried after errors that may pass (a dependency is away). Others fail the step.
_RETRY: Any = {
    "retries_allowed": True,
    "max_attempts": 8,
    "interval_seconds": 1.0,
    "backoff_rate": 2.0,
    "should_retry": lambda error: isinstance(error, Unavailable | Conflict),
}


class _Leaving(BaseException):
    """This process stops. Not an Exception, so that DBOS records no outcome and the next process continues."""


class _Stopped(Failed):
    """The run was stopped on request before its first step."""


class PipelineReconciler:
    """Reconciler of pipeline runs: starts a workflow for each that has none, and owns DBOS while this process leads."""

    kind = "PipelineRun"

    def __init__(self, platform: Platform, *, dbos_url: str, mlflow: MlflowRest | None, poll: float = 0.3) -> None:
        self._platform = platform
        self._url = dbos_url
        self._make_engine = partial(_Engine, platform, mlflow, poll)
        self._engine = self._make_engine()
        self._run: Callable[[str], None] | None = None

    def start(self) -> None:
        """Open DBOS' database and recover the workflows that an earlier process left."""
        config: DBOSConfig = {
            "name": "rayplane",
            "system_database_url": self._url,
            "executor_id": EXECUTOR,
            "application_version": WORKFLOW_VERSION,
            "log_level": "WARNING",
        }
        # A new engine: the old one stays in its leaving state for the threads that it still has.
        self._engine = self._make_engine()
        try:
            DBOS(config=config)
            self._run = _register(self._engine)
            DBOS.launch()
        except BaseException:
            # A DBOS that failed to launch reports itself as launched: the next start makes another.
            self._run = None
            DBOS.destroy(destroy_registry=True)
            raise

    def stop(self) -> None:
        """Stop DBOS: running workflows stay pending for the next leader."""
        self._engine.leaving.set()
        DBOS.destroy(destroy_registry=True)
        self._run = None

    def reconcile(self, obj: Run) -> float | None:
        """Start the run's workflow, unless it was started already."""
        status = obj.status
        if status.phase in TERMINAL:
            if obj.metadata.deleted_at is not None:
                self._platform.store.remove(obj.metadata.uid)
            return None
        if self._run is None:
            return None
        with SetWorkflowID(obj.metadata.uid):
            handle = DBOS.start_workflow(self._run, obj.metadata.uid)
        state = handle.get_status().status
        if state in ("ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
            self._engine.finish(obj.metadata.uid, "Failed", f"The workflow ended as {state}; see the gateway's log.")
            return None
        return 30.0


def _register(engine: _Engine) -> Callable[[str], None]:
    """Register the two workflows with DBOS. Their order of DBOS steps is part of WORKFLOW_VERSION."""

    @DBOS.workflow(name="rayplane.step")
    def step_workflow(uid: str, name: str, needs: list[str]) -> dict[str, Any]:
        done = {need: _result(f"{uid}/{need}") for need in needs}
        if any(result["phase"] not in ("Succeeded", "Cached") for result in done.values()):
            return DBOS.run_step(_RETRY, engine.skip, uid, name, done)
        try:
            with engine.staying():
                plan = DBOS.run_step(_RETRY, engine.plan, uid, name, done)
                if plan["cached"] is None:
                    with engine.starting(uid, plan):
                        DBOS.run_step(_RETRY, engine.submit, uid, name, plan)
                        outcome = DBOS.run_step(_RETRY, engine.wait, uid, name, plan)
                else:
                    outcome = plan["cached"]
        except Exception as exc:  # noqa: BLE001 - whatever the error, the step reports it
            return DBOS.run_step(_RETRY, engine.fail, uid, name, _sentence(exc))
        return DBOS.run_step(_RETRY, engine.record, uid, name, plan, outcome)

    @DBOS.workflow(name="rayplane.run")
    def run_workflow(uid: str) -> None:
        try:
            with engine.staying():
                order = DBOS.run_step(_RETRY, engine.begin, uid)
                DBOS.run_step(_RETRY, engine.observe, uid)
        except Exception as exc:  # noqa: BLE001 - whatever the error, the run reports it
            phase = "Stopped" if isinstance(exc, _Stopped) else "Failed"
            DBOS.run_step(_RETRY, engine.finish, uid, phase, _sentence(exc))
            return
        with engine.staying():
            for name, needs in order:
                with SetWorkflowID(f"{uid}/{name}"):
                    DBOS.start_workflow(step_workflow, uid, name, needs)
            results = [_result(f"{uid}/{name}") for name, _ in order]
        phase, message = _verdict(results)
        DBOS.run_step(_RETRY, engine.finish, uid, phase, message)

    return run_workflow


def _result(workflow_id: str) -> dict[str, Any]:
    handle: WorkflowHandle[dict[str, Any]] = DBOS.retrieve_workflow(workflow_id)
    return handle.get_result(polling_interval_sec=0.2)


def _verdict(results: list[dict[str, Any]]) -> tuple[str, str]:
    failed = [r for r in results if r["phase"] == "Failed"]
    if failed:
        return "Failed", "; ".join(f"step '{r['name']}': {r['message']}" for r in failed)
    if any(r["phase"] == "Stopped" for r in results):
        return "Stopped", "Stopped on request."
    return "Succeeded", ""


class _Engine:
    """The effects of the workflows; each is idempotent."""

    def __init__(self, platform: Platform, mlflow: MlflowRest | None, poll: float) -> None:
        self._platform = platform
        self._cache = StepCache(platform, mlflow)
        self._poll = poll
        self._lock = threading.Lock()
        self._starts = Starts()
        self.leaving = threading.Event()

    @contextlib.contextmanager
    def staying(self) -> Iterator[None]:
        """Raise _Leaving for an error of the block once the engine leaves: DBOS was closed under it."""
        try:
            yield
        except Exception as exc:
            if self.leaving.is_set():
                raise _Leaving from exc
            raise

    @contextlib.contextmanager
    def starting(self, uid: str, plan: dict[str, Any]) -> Iterator[None]:
        """Hold a slot to start the step in, if its cluster shares the cores of a host with others.

        Not a DBOS step: the next leader waits for a slot again. A run that is to stop waits no longer: its jobs are
        stopped as they start.
        """
        start = plan.get("start", {"host": "", "cores": None, "rank": 0})  # a plan of an older version has none
        with self._platform.store.changes.watching(uid) as run_watch:

            def leaving() -> bool:
                return self.leaving.is_set() or (run_watch.wait(0) and self._load(uid)[1].stop_requested)

            slot = self._starts.slot(start["host"], cores=start["cores"], rank=start["rank"], leaving=leaving)
            with slot:
                if self.leaving.is_set():
                    raise _Leaving
                yield

    def begin(self, uid: str) -> list[tuple[str, list[str]]]:
        """Mark the run as running; (step, its needs) in order."""
        _, _, pipeline = self._load(uid)
        with self._status(uid) as status:
            status.phase = "Running"
            status.started_at = status.started_at or utcnow()
            known = {step.name for step in status.steps}
            status.steps += [StepRun(name=name) for name in pipeline.order() if name not in known]
        return [(name, pipeline.needs_of(name)) for name in pipeline.order()]

    def observe(self, uid: str) -> None:
        """Run the job that hashes every source of the run, if it has any; the hashes are in the job's events."""
        run, spec, pipeline = self._load(uid)
        sources = {
            f"{name}.{source}": uri
            for name, step in pipeline.steps.items()
            for source, uri in resolve(name, step, spec.parameters).sources.items()
        }
        if not sources:
            return
        self._submit(
            run,
            OBSERVE,
            JobSpec(
                entrypoint=plugins.OBSERVE_ENTRYPOINT,
                cluster=pipeline.cluster,
                sources=sources,
                tracked=False,
                pipeline=f"{spec.pipeline}/{run.metadata.name}/{OBSERVE}",
                retries=1,
            ),
        )
        job = self._follow(run, OBSERVE)
        if job.phase == "Stopped":
            raise _Stopped("Stopped on request.")
        if job.phase != "Succeeded":
            raise Failed(f"The sources can't be read: {job.message}", remedy=self._log_hint(run, OBSERVE))

    def plan(self, uid: str, name: str, needs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Compute the step's key and look up a cached result, which counts if all of its outputs still exist."""
        run, spec, pipeline = self._load(uid)
        step = resolve(name, pipeline.steps[name], spec.parameters)
        outputs = {need: [Output.model_validate(o) for o in result["outputs"]] for need, result in needs.items()}
        versions = {o.name: o.value for listed in outputs.values() for o in listed if o.kind == "dataset"}
        inputs = {dataset: str(versions[dataset]) for dataset in step.inputs}
        values = values_of(outputs)
        step_inputs = StepInputs(self._platform, run.team)
        hashes = step_inputs.source_hashes(_job_name(run, OBSERVE), name) if step.sources else {}
        with self._status(uid) as status:
            record = _step(status, name)
            record.phase, record.started_at = "Running", record.started_at or utcnow()
        key = step_key(
            step,
            closure=code_closure(step_inputs.package(pipeline), step.entrypoint, step.files),
            inputs=inputs,
            values=values,
            sources=hashes,
            environment=step_inputs.environment(pipeline),
        )
        cached = None
        if step.cache and not spec.force and (result := self._cache.find(run.team, key)) is not None:
            cached = {"phase": "Cached", "message": "", "outputs": _plain(result.outputs), "run": result.run}
        backend = step_inputs.backend(pipeline)
        rank = ranks({each: pipeline.needs_of(each) for each in pipeline.steps})[name]
        start = {"host": backend.name, "cores": backend.real_cores(), "rank": rank}
        return {"key": key, "inputs": inputs, "values": values, "cached": cached, "start": start}

    def submit(self, uid: str, name: str, plan: dict[str, Any]) -> None:
        """Submit the step's job; an existing one of this name is success."""
        run, spec, pipeline = self._load(uid)
        step = resolve(name, pipeline.steps[name], spec.parameters)
        self._submit(
            run,
            name,
            JobSpec(
                entrypoint=step.entrypoint,
                cluster=pipeline.cluster,
                package=pipeline.package,
                env=step.env,
                parameters=step.parameters,
                sources=step.sources,
                inputs=plan["inputs"],
                values=plan["values"],
                retries=step.retries,
                timeout=step.timeout,
                tracked=step.tracked,
                experiment=pipeline.experiment or spec.pipeline,
                pipeline=f"{spec.pipeline}/{run.metadata.name}/{name}",
            ),
        )
        with self._status(uid) as status:
            record = _step(status, name)
            if record.job is None:
                record.job, record.started_at = _job_name(run, name), utcnow()  # it may have waited for a slot

    def wait(self, uid: str, name: str, plan: dict[str, Any]) -> dict[str, Any]:
        """Wait for the step's job, check that it published what the step declares, and cache the result."""
        run, _, pipeline = self._load(uid)
        job = self._follow(run, name)
        if job.phase == "Stopped":
            return {"phase": "Stopped", "message": job.message or "Stopped.", "outputs": [], "run": None}
        if job.phase != "Succeeded":
            raise Failed(job.message or "The job failed.", remedy=self._log_hint(run, name))
        published = {o.name for o in job.outputs if o.kind == "dataset"}
        missing = sorted(set(pipeline.steps[name].outputs) - published)
        if missing:
            raise Failed(
                f"The job succeeded but published no {', '.join(repr(m) for m in missing)}.",
                remedy=f"Publish it in '{pipeline.steps[name].entrypoint}', or take it off the step's outputs.",
            )
        outputs = list(job.outputs)
        if job.run_id and not any(o.kind == "run" for o in outputs):
            outputs.append(Output(kind="run", name="run", value=job.run_id))
        result = StepResult(key=plan["key"], run=run.metadata.name, job=_job_name(run, name), outputs=outputs)
        self._platform.store.put_step_result(run.team, result)
        return {"phase": "Succeeded", "message": "", "outputs": _plain(outputs), "run": None}

    def record(self, uid: str, name: str, plan: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
        """Write the step's outcome to the run's status."""
        with self._status(uid) as status:
            record = _step(status, name)
            record.phase = outcome["phase"]
            record.key = plan["key"]
            record.cached_from = outcome["run"]
            record.ended_at = record.ended_at or utcnow()
            record.message = outcome["message"]
            record.outputs = [Output.model_validate(o) for o in outcome["outputs"]]
        return {"name": name, "phase": outcome["phase"], "message": outcome["message"], "outputs": outcome["outputs"]}

    def fail(self, uid: str, name: str, message: str) -> dict[str, Any]:
        """Write the step's failure to the run's status."""
        return self._end(uid, name, "Failed", message)

    def skip(self, uid: str, name: str, needs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Write that the step was skipped because one that it needs did not succeed."""
        bad = sorted(need for need, result in needs.items() if result["phase"] not in ("Succeeded", "Cached"))
        return self._end(uid, name, "Skipped", f"Needs {', '.join(bad)}.")

    def finish(self, uid: str, phase: str, message: str) -> None:
        """Write the run's end."""
        with self._status(uid) as status:
            if status.phase in TERMINAL:
                return
            status.phase, status.message, status.ended_at = phase, message, utcnow()
            status.set_condition("Ready", phase == "Succeeded", phase, message, status.observed_generation)

    def _end(self, uid: str, name: str, phase: str, message: str) -> dict[str, Any]:
        with self._status(uid) as status:
            record = _step(status, name)
            record.phase, record.message, record.ended_at = phase, message, utcnow()
        return {"name": name, "phase": phase, "message": message, "outputs": []}

    def _submit(self, run: Run, step: str, spec: JobSpec) -> None:
        """Submit the step's job; while the team's quota of jobs is full, wait and try again."""
        while True:
            try:
                jobs.submit(spec, team=run.team, name=_job_name(run, step), principal=SYSTEM, platform=self._platform)
                return
            except Refused as exc:
                if exc.fields.get("quota") != "jobs" or self._load(run.metadata.uid)[1].stop_requested:
                    raise
            if self.leaving.wait(ROOM):
                raise _Leaving

    def _follow(self, run: Run, step: str) -> JobStatus:
        store = self._platform.store
        uid = store.get(JOB, run.team, _job_name(run, step)).metadata.uid
        asked_to_stop = False
        with store.changes.watching(uid) as job_watch:
            while True:
                job = store.get_by_uid(uid, JOB)
                status = job.status
                if status.phase in TERMINAL:
                    return status
                current = store.get_by_uid(run.metadata.uid, RUN)
                if not asked_to_stop and current.spec.stop_requested:
                    jobs.stop(run.team, job.metadata.name, principal=SYSTEM, platform=self._platform)
                    asked_to_stop = True
                job_watch.wait(self._poll)
                if self.leaving.is_set():
                    raise _Leaving

    def _log_hint(self, run: Run, step: str) -> str:
        return f"Read its log with: rayplane job logs {_job_name(run, step)} --team {run.team}"

    def _load(self, uid: str) -> tuple[Run, RunSpec, PipelineSpec]:
        run = self._platform.store.get_by_uid(uid, RUN)
        spec = run.spec
        pipeline = spec.pipeline_spec
        return run, spec.model_copy(update={"parameters": {**pipeline.parameters, **spec.parameters}}), pipeline

    @contextlib.contextmanager
    def _status(self, uid: str) -> Iterator[RunStatus]:
        # The steps of a run end at the same time on several threads of the one leader, so its status is locked here.
        with self._lock:
            run = self._platform.store.get_by_uid(uid, RUN)
            status = run.status_copy()
            yield status
            status.observed_generation = run.metadata.generation
            self._platform.store.set_status(uid, status)


def _step(status: RunStatus, name: str) -> StepRun:
    return next(step for step in status.steps if step.name == name)


def _job_name(run: Run, step: str) -> str:
    """The name of a step's job, the same each time, so that a second submission finds the first."""
    name = f"{run.metadata.name}-{step}"
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _plain(outputs: list[Output]) -> list[dict[str, Any]]:
    return [output.model_dump(mode="json") for output in outputs]


def _sentence(exc: Exception) -> str:
    if isinstance(exc, RayplaneError):
        return str(exc)
    log.exception("a pipeline step raised an unexpected error", exc_info=exc)
    return f"{type(exc).__name__}: {exc}"
