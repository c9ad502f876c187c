"""Finish a job: take in its events, end its MLflow run, keep its record, and write its last phase."""

from __future__ import annotations

import logging

from rayplane.errors import InvalidInput, RayplaneError
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.reconcile import inbox
from rayplane.gateway.reconcile.job_run import JobRuns
from rayplane.gateway.reconcile.look import Look
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.usecases import events
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import JOB
from rayplane.nouns.events import Event
from rayplane.nouns.job import JobStatus
from rayplane.repeats import Repeats
from rayplane.storage import layout

log = logging.getLogger(__name__)

_BATCH = 500


class JobFinisher:
    """Finisher of jobs whose last attempt has ended, or that end without one."""

    def __init__(self, platform: Platform, runs: JobRuns) -> None:
        self._platform = platform
        self._runs = runs
        self._errors = Repeats(log)

    def finish(self, look: Look, phase: str, message: str) -> None:
        """Take in the job's events, end its run, keep its record, and write the phase last. All is idempotent."""
        refused = self._ingest(look)
        final = self._final(look, phase, message, refused)
        self._runs.end(look, final)
        self._keep_record(look, final)
        # Outputs may have come in between by the API, so the stored status is changed, not replaced.
        with editing(self._platform.store, look.uid, JobStatus) as status:
            status.phase, status.message, status.ended_at = phase, message, final.ended_at
            status.observed_generation = look.obj.metadata.generation
            status.conditions = final.conditions

    def _ingest(self, look: Look) -> list[str]:
        """Take in the events that the job wrote to its folder; the reasons for refused ones. Known ones are fine."""
        job_events, refused = inbox.read(self._platform.storage, look.team, look.uid)
        for start in range(0, len(job_events), _BATCH):
            refused += self._ingest_batch(look.team, job_events[start : start + _BATCH])
        for reason in refused:
            log.warning("job %s/%s: an event is refused: %s", look.team, look.name, reason)
        return refused

    def _ingest_batch(self, team: str, batch: list[Event]) -> list[str]:
        try:
            events.ingest(team, batch, principal=SYSTEM, platform=self._platform)
        except InvalidInput as exc:
            if len(batch) == 1:
                return [f"{batch[0].type} {batch[0].id}: {exc}"]
            # One bad event must keep neither the others out nor the job from ending.
            return [reason for event in batch for reason in self._ingest_batch(team, [event])]
        except RayplaneError:
            raise
        except Exception as exc:  # noqa: BLE001  logged with its traceback the first time
            if len(batch) > 1:
                return [reason for event in batch for reason in self._ingest_batch(team, [event])]
            self._errors.failed(batch[0].id, exc, "event %s of team '%s' can't be taken", batch[0].id, team)
            return [f"{batch[0].type} {batch[0].id}: {type(exc).__name__}: {exc}"]
        return []

    def _final(self, look: Look, phase: str, message: str, refused: list[str]) -> JobStatus:
        status = self._platform.store.get_by_uid(look.uid, JOB).status_copy()
        generation = look.obj.metadata.generation
        last = look.last
        status.phase, status.message = phase, message
        status.ended_at = last.ended_at if last is not None and last.ended_at is not None else look.now
        status.set_condition("Ready", phase == "Succeeded", phase, message, generation)
        if refused:
            status.set_condition("EventsIn", False, "Refused", "; ".join(refused)[:2000], generation)
        return status

    def _keep_record(self, look: Look, final: JobStatus) -> None:
        record = look.obj.plain().model_copy(update={"status": final.model_dump(mode="json")}).model_dump_json(indent=1)
        try:
            self._platform.storage.write(layout.job_record(look.team, look.uid), record.encode())
        except InvalidInput as exc:  # the job's code put a link in the way, which must not keep it from ending
            log.warning("job %s/%s: its record is not kept: %s", look.team, look.name, exc)
            final.set_condition("RecordKept", False, "Problem", str(exc), look.obj.metadata.generation)
