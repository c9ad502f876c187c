"""One look at a job: its object with typed spec and status, at one instant. Pure."""

from __future__ import annotations

from datetime import datetime

from rayplane.gateway.store.typed import Job


class Look:
    """A job as the reconciler looks at it."""

    def __init__(self, obj: Job, now: datetime) -> None:
        self.obj = obj
        self.now = now
        self.uid = obj.metadata.uid
        self.team = obj.team
        self.name = obj.metadata.name
        self.spec = obj.spec
        self.status = obj.status_copy()
        self.last = self.status.attempts[-1] if self.status.attempts else None
        self.timed_out = (left := self.seconds_left) is not None and left < 0
        self.stop_reason = self._stop_reason()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the job's timeout; None without one. All attempts share it, from the start of the first."""
        if not self.spec.timeout:
            return None
        started = self.status.started_at or self.now
        return self.spec.timeout - (self.now - started).total_seconds()

    def _stop_reason(self) -> str | None:
        """The reason why the job must not go on; None while it may."""
        if self.timed_out:
            return f"The job took longer than its timeout of {self.spec.timeout:g} s."
        if self.spec.stop_requested:
            return self.status.stop_reason or "Stopped on request."
        if self.obj.metadata.deleted_at is not None:
            return "The job was deleted."
        return None
