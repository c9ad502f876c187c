"""Run a job: have its attempts run by Ray, one after the other, follow them, keep their log, and decide its end.

Module ``placements`` knows where an attempt runs: on a cluster of the team, or on nodes of its own. ``job_run`` keeps
its MLflow run, ``job_end`` takes in its events and keeps its record.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from rayplane.errors import InvalidInput, NotFound, RayplaneError
from rayplane.gateway import metrics
from rayplane.gateway.backends.base import Backend, Submission
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile import renewal, runtime_env
from rayplane.gateway.reconcile.attempts import End, message_of, verdict
from rayplane.gateway.reconcile.job_end import JobFinisher
from rayplane.gateway.reconcile.job_run import JobRuns
from rayplane.gateway.reconcile.logs import LogFollowers
from rayplane.gateway.reconcile.look import Look
from rayplane.gateway.reconcile.parking import Until
from rayplane.gateway.reconcile.placements import (
    ONBOARDING,
    AttemptView,
    NotNow,
    OnCluster,
    OnOwnNodes,
    Placement,
    written_after,
)
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.store.changes import log_of
from rayplane.gateway.store.typed import Job
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import TEAM
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import Endpoint
from rayplane.nouns.job import TERMINAL, Attempt, JobStatus
from rayplane.storage import layout

log = logging.getLogger(__name__)

NOW, SOON, WATCH = 0.0, 0.3, 0.7
ENDING = 0.05
"""Seconds between two looks at an attempt whose entrypoint has reported its end, until Ray says how it ended."""
ENDING_PATIENCE = 10.0
"""Seconds for which such an attempt is looked at so often."""
LOG_PATIENCE = timedelta(seconds=30)
"""Time that an ended attempt's log has to arrive, before the job ends without the rest of it."""
LOG_LONGEST = timedelta(hours=1)
"""Limit of that time while the log still arrives: a foreign Ray might never end it."""


class JobReconciler:
    """Reconciler of jobs: one attempt at a time, each under Ray's id ``<job uid>-<n>``, all on one MLflow run."""

    kind = "Job"

    def __init__(
        self,
        platform: Platform,
        backends: Callable[[str], Backend],
        rays: Callable[[Endpoint], RayRest],
        mlflow: MlflowRest | None,
        *,
        wake: Callable[[str], None] = lambda uid: None,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._platform = platform
        self._wake = wake
        """Called with an object's uid to have the loop look at it."""
        self._backends = backends
        self._rays = rays
        self._runs = JobRuns(platform, mlflow)
        self._finisher = JobFinisher(platform, self._runs)
        self._clock = clock
        self._ending_lock = threading.Lock()
        self._ending: dict[str, float] = {}
        """uid -> when the entrypoint of the job's attempt reported its end, on the monotonic clock."""
        self._logs = LogFollowers(platform.storage, kept=self._log_grew)

    def start(self) -> None:
        """Begin to lead: log followers start with their jobs."""
        self._logs.open()

    def stop(self) -> None:
        """End to lead: write what has arrived of the logs."""
        self._logs.stop()

    def expect_end(self, uid: str) -> None:
        """Look at the job at once, then often: its entrypoint has ended and Ray will say so soon. Thread-safe."""
        now = time.monotonic()
        with self._ending_lock:
            self._ending = {known: at for known, at in self._ending.items() if now - at < ENDING_PATIENCE} | {uid: now}
        self._wake(uid)

    def _log_grew(self, submission_id: str) -> None:
        uid = submission_id.rpartition("-")[0]
        self._platform.store.changes.tell([log_of(uid)])

    def reconcile(self, obj: Job) -> float | Until | None:
        """Take the job's next step."""
        look = Look(obj, self._clock())
        if look.status.phase in TERMINAL:
            if obj.metadata.deleted_at is not None:
                self._platform.store.remove(look.uid)
            return None
        placement, last = self._placement(look), look.last
        if last is not None and last.ended_at is None:
            return self._follow(look, last, placement)
        if last is not None:
            decision = verdict(look.status.attempts, retries=look.spec.retries, may_go_on=look.stop_reason is None)
            if not self._release(look, last, placement):
                return SOON
            if decision != "again":
                message = "" if decision == "Succeeded" else message_of(look.status.attempts)
                return self._finish(look, decision, message)
        if look.stop_reason is not None:
            return self._finish(look, "Failed" if look.timed_out else "Stopped", look.stop_reason)
        return self._launch(look, placement)

    def _placement(self, look: Look) -> Placement:
        if look.spec.nodes is not None:
            return OnOwnNodes.read(look, look.spec.nodes, self._platform, self._backends, self._rays, wake=self._wake)
        return OnCluster.read(look, self._platform, self._rays)

    def _launch(self, look: Look, placement: Placement) -> float | Until:
        """Record the next attempt, or wait for what it still needs."""
        readiness = placement.readiness()
        if isinstance(readiness, NotNow):
            if readiness.never:
                return self._finish(look, "Failed", readiness.message)
            return self._wait(look, readiness)
        if look.spec.tracked and look.status.run_id is None:
            team = self._platform.store.get(TEAM, "", look.team)
            if team.status.phase != "Ready":
                until = written_after(team, ONBOARDING)
                return self._wait(look, NotNow("TeamNotReady", f"Team '{look.team}' is being onboarded.", until=until))
            self._runs.allocate(look, readiness.environment)
        number = len(look.status.attempts) + 1
        attempt = Attempt(
            number=number,
            submission_id=f"{look.uid}-{number}",
            incarnation=readiness.incarnation,
            started_at=self._clock(),  # not look.now: the run was allocated since this look began
        )
        # Recorded before it is submitted: after a crash the next leader asks for it under this id.
        with editing(self._platform.store, look.uid, JobStatus) as status:
            status.attempts.append(attempt)
            status.phase = "Starting"
            status.started_at = status.started_at or look.now
            status.environment = readiness.environment or status.environment
            status.observed_generation = look.obj.metadata.generation
            status.set_condition("Scheduled", True, "Submitted", "", look.obj.metadata.generation)
        if look.last is not None:
            self._logs.abandon(look.last.submission_id)
        log.info("job %s/%s: attempt %d", look.team, look.name, number, extra={"submission_id": attempt.submission_id})
        return NOW

    def _follow(self, look: Look, attempt: Attempt, placement: Placement) -> float:
        """Observe an attempt without a recorded end: submit it, follow it, or record its end."""
        view = placement.view(attempt)
        if view.state == "lost":
            return self._end_attempt(look, attempt, End("Lost", view.message))
        attempt.incarnation = attempt.incarnation or view.incarnation
        if view.state != "known":
            if look.stop_reason is not None:
                ended_as = "TimedOut" if look.timed_out else "Stopped"
                return self._end_attempt(look, attempt, End(ended_as, look.stop_reason))
            return self._begin(look, attempt, placement, view)
        if view.end is not None:
            end = view.end
            message = end.message or (look.stop_reason or "") if end.status != "Succeeded" else ""
            return self._end_attempt(look, attempt, End(end.status, message or _default_message(end), end.exit_code))
        assert view.ray is not None
        self._keep_log(look, attempt, view.ray)
        generation = look.obj.metadata.generation
        renewal.record(self._platform.store, look.uid, JobStatus, look.status, view.not_renewed, generation)
        if look.stop_reason is not None:
            view.ray.stop(attempt.submission_id)
        phase = "Running" if view.running else "Starting"
        if look.status.phase != phase or attempt.status != "Running" or self._log_problem_changed(look, attempt):
            with editing(self._platform.store, look.uid, JobStatus) as status:
                status.phase = phase
                status.attempts[-1].status = "Running"
                status.attempts[-1].incarnation = attempt.incarnation
                status.endpoint, status.environment = view.endpoint, view.environment or status.environment
                status.observed_generation = look.obj.metadata.generation
                status.set_condition("Scheduled", True, "Submitted", "", look.obj.metadata.generation)
                self._report_log(look, status, self._logs.problem(attempt.submission_id))
        return self._pause(look, attempt)

    def _pause(self, look: Look, attempt: Attempt) -> float:
        """Seconds until the next look at an attempt under way: a small share of its age, or at once and often when its
        entrypoint has reported its end."""
        ended_at = self._ending.get(look.uid)
        if ended_at is not None and time.monotonic() - ended_at < ENDING_PATIENCE:
            return ENDING
        age = (look.now - attempt.started_at).total_seconds() if attempt.started_at is not None else 0.0
        return min(max(age / 20, 0.1), WATCH)

    def _begin(self, look: Look, attempt: Attempt, placement: Placement, view: AttemptView) -> float:
        """Make what the attempt needs, then submit it to Ray; both are idempotent."""
        if view.state == "coming":
            return self._await_nodes(look, attempt, view)
        try:
            submission = self._submission(look, attempt)
            if view.ray is None:
                self._runs.resume(look, attempt)
                placement.make(attempt, submission)
                return SOON
            # On nodes of its own the backend submits it as well. Ray accepts an id only once, and only this call learns
            # the reason for a refusal.
            if look.spec.nodes is None:
                self._runs.resume(look, attempt)
                self._stop_lost(look, attempt, view.ray)
                self._begin_log(look)
            view.ray.submit(
                submission.entrypoint,
                attempt.submission_id,
                runtime_env=submission.runtime_env,
                metadata=submission.metadata,
                num_cpus=submission.resources.cpu,
                num_gpus=submission.resources.gpu,
                memory=int(submission.resources.memory),
            )
            self._keep_log(look, attempt, view.ray)
        except InvalidInput as exc:
            return self._end_attempt(look, attempt, End("Failed", f"Ray refuses the job: {exc}"))
        except NotFound as exc:
            return self._end_attempt(look, attempt, End("Failed", f"The job's code package is gone: {exc}"))
        return self._pause(look, attempt)

    def _begin_log(self, look: Look) -> None:
        """Create the job's log, and so its folder, before the job can: the owner of a folder may replace its files."""
        path = layout.job_log(look.team, look.uid)
        if self._platform.settings.local_users and not self._platform.storage.exists(path):
            self._platform.storage.append(path, b"")

    def _stop_lost(self, look: Look, attempt: Attempt, ray: RayRest) -> None:
        """Stop earlier attempts that were recorded as lost while this very head only did not answer."""
        for earlier in look.status.attempts[:-1]:
            if earlier.status == "Lost" and earlier.incarnation == attempt.incarnation:
                ray.stop(earlier.submission_id)

    def _await_nodes(self, look: Look, attempt: Attempt, view: AttemptView) -> float:
        message = view.message or "The job's nodes are starting."
        known = look.status.condition("Scheduled")
        if attempt.status == "Pending" or known is None or (known.reason, known.message) != (view.reason, message):
            with editing(self._platform.store, look.uid, JobStatus) as status:
                if attempt.status == "Pending":  # otherwise it runs, and its head does not answer for a while
                    status.phase, status.attempts[-1].status = "Starting", "Starting"
                status.set_condition("Scheduled", False, view.reason, message, look.obj.metadata.generation)
        return WATCH

    def _submission(self, look: Look, attempt: Attempt) -> Submission:
        spec = look.spec
        return Submission(
            entrypoint=spec.entrypoint,
            runtime_env=runtime_env.build(
                self._platform.storage, look.team, spec.package, env=self._variables(look, attempt), pip=spec.pip
            ),
            metadata={**spec.metadata, "rayplane.job": look.name, "rayplane.team": look.team},
            resources=spec.resources,
            timeout=look.seconds_left,
        )

    def _variables(self, look: Look, attempt: Attempt) -> dict[str, str]:
        env = {**look.spec.env, "RAYPLANE_SUBMISSION_ID": attempt.submission_id}
        if look.status.run_id is not None:
            env["MLFLOW_RUN_ID"] = look.status.run_id
        return env

    def _end_attempt(self, look: Look, attempt: Attempt, end: End) -> float:
        with self._ending_lock:
            self._ending.pop(look.uid, None)
        if end.status == "Lost":
            self._logs.abandon(attempt.submission_id)
        with editing(self._platform.store, look.uid, JobStatus) as status:
            record = status.attempts[-1]
            record.status, record.message, record.ended_at = end.status, end.message, self._clock()
            record.incarnation = attempt.incarnation
            status.exit_code, status.endpoint = end.exit_code, None
        log.info(
            "job %s/%s: attempt %d %s: %s", look.team, look.name, attempt.number, end.status, end.message or "well"
        )
        return NOW

    def _release(self, look: Look, attempt: Attempt, placement: Placement) -> bool:
        """Take in the ended attempt's log, then free what was made for it alone; True once both are done."""
        if look.spec.nodes is None:
            return self._log_is_in(look, attempt, placement)
        if not attempt.log_kept:
            # An attempt that never reached a head was never known to Ray: it has no log.
            if attempt.incarnation is not None and not self._log_is_in(look, attempt, placement):
                return False
            with editing(self._platform.store, look.uid, JobStatus) as status:
                status.attempts[-1].log_kept = True
        return placement.free(attempt)

    def _log_is_in(self, look: Look, attempt: Attempt, placement: Placement) -> bool:
        """True once the ended attempt's log is kept, or can't be fetched any more."""
        if attempt.log_kept or attempt.status == "Lost" or self._logs.finished(attempt.submission_id):
            return True
        problem = "its cluster is gone"
        ray = placement.ray(attempt)
        if ray is not None:
            try:
                if self._complete_log(look, attempt, ray):
                    return True
                problem = self._logs.problem(attempt.submission_id) or "it does not end"
            except NotFound:
                return True  # the attempt ended before Ray heard of it: there is no log
            except RayplaneError as exc:
                problem = str(exc)
            waited = look.now - (attempt.ended_at or look.now)
            comes = waited < LOG_LONGEST and self._logs.comes(attempt.submission_id, within=LOG_PATIENCE)
            if waited < LOG_PATIENCE or comes:
                return False
        self._logs.abandon(attempt.submission_id)
        log.warning("job %s/%s: the end of the log is missing: %s", look.team, look.name, problem)
        metrics.LOGS_CUT.inc()
        with editing(self._platform.store, look.uid, JobStatus) as status:
            status.attempts[-1].log_kept = True  # no more of it will arrive
            self._report_log(look, status, f"The end of the log is missing: {problem.rstrip('.')}.")
        return True

    def _complete_log(self, look: Look, attempt: Attempt, ray: RayRest) -> bool:
        path = layout.job_log(look.team, look.uid)
        return self._logs.complete(ray, path=path, number=attempt.number, submission_id=attempt.submission_id)

    def _keep_log(self, look: Look, attempt: Attempt, ray: RayRest) -> None:
        path = layout.job_log(look.team, look.uid)
        self._logs.follow(ray, path=path, number=attempt.number, submission_id=attempt.submission_id)

    def _log_problem_changed(self, look: Look, attempt: Attempt) -> bool:
        known = look.status.condition("LogKept")
        return (known.message if known else "") != self._logs.problem(attempt.submission_id)

    def _report_log(self, look: Look, status: JobStatus, problem: str) -> None:
        if problem or status.condition("LogKept") is not None:
            reason = "Problem" if problem else "Kept"
            status.set_condition("LogKept", not problem, reason, problem, look.obj.metadata.generation)

    def _finish(self, look: Look, phase: str, message: str) -> float:
        """End the job, once nothing of its last attempt is under way."""
        self._finisher.finish(look, phase, message)
        if look.last is not None:
            self._logs.abandon(look.last.submission_id)
        log.info("job %s/%s ended: %s", look.team, look.name, phase, extra={"detail": message})
        return NOW

    def _wait(self, look: Look, why: NotNow) -> float | Until:
        """Report once what the job waits for, and leave it alone until that changes or its timeout is over."""

        def report(status: JobStatus) -> None:
            status.phase = "Pending"
            if status.attempts:
                status.attempts[-1].log_kept = True  # its log was released before; another process must not look for it
            status.observed_generation = look.obj.metadata.generation
            status.set_condition("Scheduled", False, why.reason, why.message, look.obj.metadata.generation)

        after = look.status.model_copy(deep=True)
        report(after)
        if after != look.status:  # thousands may wait: one that has reported it takes no write lock
            with editing(self._platform.store, look.uid, JobStatus) as status:
                report(status)
        if why.until is None:
            return SOON
        left = look.seconds_left if look.status.started_at is not None else None
        return why.until if left is None else replace(why.until, within=max(ENDING, min(why.until.within, left)))


def _default_message(end: End) -> str:
    return {"Stopped": "Stopped through Ray.", "Failed": "It failed."}.get(end.status, "")
