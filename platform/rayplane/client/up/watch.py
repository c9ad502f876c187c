"""Keep one child up: adopt it or start it, check its health, start it again after its back-off."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from rayplane import processes
from rayplane.client.up import health
from rayplane.client.up.backoff import Backoff
from rayplane.client.up.plan import Child
from rayplane.client.up.state import ChildReport, ChildState
from rayplane.errors import PortTaken, RayplaneError
from rayplane.processes import ProcessRecord
from rayplane.settings import Home

log = logging.getLogger(__name__)

START_GRACE = 180.0
"""Seconds that a child may take to become healthy: MLflow needs 20 on two busy cores, more on one."""
HANG_GRACE = 60.0
"""Seconds for which a child that was healthy may fail its check before it is taken for hung and restarted."""
CHECK_INTERVAL = 5.0
"""Seconds between two checks of a healthy child. Whether its process lives is looked at on every tick."""


class Watch:
    """One child's life. One thread calls ``tick``; anyone may read ``report``."""

    def __init__(
        self,
        child: Child,
        *,
        home: Home,
        environ: Mapping[str, str],
        earlier: ChildReport | None,
        changed: Callable[[], None],
        healthy: Callable[[str], bool] = health.answers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._child = child
        self._home = home
        self._environ = environ
        self._changed = changed
        self._healthy = healthy
        self._clock = clock
        self._backoff = Backoff(restarts=earlier.restarts if earlier else 0)
        self._earlier = earlier
        self._record: ProcessRecord | None = None
        self._next_start = self._next_check = float("-inf")
        self._since = clock()
        """When the child was started, or last healthy."""
        self._was_healthy = False
        self.report = self._reported("starting")

    def adopt(self) -> bool:
        """Take over the process that an earlier supervisor started, if it is the very one that would be started now."""
        try:
            record = processes.load(self._child.name, self._home.processes)
        except ValidationError:
            record = None  # damaged: its mark finds the process, which is started anew
        same = self._earlier is not None and self._earlier.fingerprint == self._child.fingerprint
        if record is None or not same or not processes.alive(record):
            return False
        self._record = record
        self._since = self._clock()
        log.info("adopted a child", extra={"child": self._child.name, "pid": record.pid})
        return True

    def tick(self) -> None:
        """Look once, and do what is to be done. Blocks for one health check, or for as long as a start takes."""
        now = self._clock()
        if self._record is None:
            if now >= self._next_start:
                self._start()
            return
        if not processes.alive(self._record):
            self._lost(now, f"It ended; see {self._child.log}.")
            return
        if now < self._next_check:
            return
        if self._healthy(self._child.health):
            self._since, self._was_healthy = now, True
            self._next_check = now + CHECK_INTERVAL
            self._backoff.healthy(now)
            self._tell("healthy")
            return
        self._backoff.unhealthy()
        grace = HANG_GRACE if self._was_healthy else START_GRACE
        if now - self._since > grace:
            processes.stop(self._record)
            self._lost(now, f"It ran, but did not answer {self._child.health} for {grace:.0f} s; it was stopped.")
            return
        self._tell("unhealthy" if self._was_healthy else "starting")

    def stop(self) -> None:
        """Stop the child and all that it started. Blocks until they are gone."""
        if self._record is not None:
            processes.stop(self._record)
        processes.stop_marked(self._mark)
        processes.forget(self._child.name, self._home.processes)
        self._record = None
        self._tell("stopped")

    @property
    def _mark(self) -> str:
        return f"{self._home.id}/{self._child.name}"

    def _start(self) -> None:
        # What a killed child left (a worker of its own, say) holds the port: it goes first.
        processes.stop_marked(self._mark)
        try:
            self._record = processes.start(
                self._child.name,
                self._child.argv,
                mark=self._mark,
                log=self._child.log,
                records=self._home.processes,
                env={**self._environ, **self._child.env},
                port=self._child.port,
                listen=self._child.listen,
                cwd=self._child.cwd,
            )
        except (RayplaneError, OSError) as exc:
            # A full disk may refuse the record of a process that was started: no process stays that is not recorded.
            processes.stop_marked(self._mark)
            self._lost(self._clock(), str(exc), "port-taken" if isinstance(exc, PortTaken) else "waiting")
            return
        self._since, self._was_healthy = self._clock(), False
        log.info("started a child", extra={"child": self._child.name, "pid": self._record.pid})
        self._tell("starting")

    def _lost(self, now: float, message: str, state: ChildState = "waiting") -> None:
        self._record = None
        self._was_healthy, self._next_check = False, float("-inf")
        self._next_start = self._backoff.ended(now)
        wait = self._next_start - now
        log.warning("a child is not up", extra={"child": self._child.name, "why": message, "wait_seconds": wait})
        self._tell(state, f"{message} It is started again in {wait:.1f} s.")

    def _tell(self, state: ChildState, message: str = "") -> None:
        report = self._reported(state, message)
        if report != self.report:
            self.report = report
            self._changed()

    def _reported(self, state: ChildState, message: str = "") -> ChildReport:
        return ChildReport(
            name=self._child.name,
            state=state,
            pid=self._record.pid if self._record else None,
            port=self._child.port,
            url=self._child.url,
            health=self._child.health,
            log=str(self._child.log),
            restarts=self._backoff.restarts,
            message=message,
            fingerprint=self._child.fingerprint,
        )
