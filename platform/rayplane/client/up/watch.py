"""Keep one child running: adopt or start it, check its health, restart it after its back-off."""

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
"""Seconds for which a child that was healthy may fail its check before it counts as hung and is restarted."""
CHECK_INTERVAL = 5.0
"""Seconds between two health checks of a healthy child. Each tick also checks that its process is alive."""


class Watch:
    """Lifecycle of one child. One thread calls ``tick``; any thread may read ``report``."""

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
        """Time at which the child was started or last healthy."""
        self._was_healthy = False
        self.report = self._make_report("starting")

    def adopt(self) -> bool:
        """Take over the process of an earlier supervisor, if it is what would be started now; True if so."""
        try:
            record = processes.load(self._child.name, self._home.processes)
        except ValidationError:
            record = None  # damaged: a new start finds the process by its mark and stops it
        same = self._earlier is not None and self._earlier.fingerprint == self._child.fingerprint
        if record is None or not same or not processes.alive(record):
            return False
        self._record = record
        self._since = self._clock()
        log.info("adopted a child", extra={"child": self._child.name, "pid": record.pid})
        return True

    def tick(self) -> None:
        """Check the child once and start or restart it if due. Blocks for one health check or one start."""
        now = self._clock()
        if self._record is None:
            if now >= self._next_start:
                self._start()
            return
        if not processes.alive(self._record):
            self._note_end(now, f"It ended; see {self._child.log}.")
            return
        if now < self._next_check:
            return
        if self._healthy(self._child.health):
            self._since, self._was_healthy = now, True
            self._next_check = now + CHECK_INTERVAL
            self._backoff.healthy(now)
            self._update_report("healthy")
            return
        self._backoff.unhealthy()
        grace = HANG_GRACE if self._was_healthy else START_GRACE
        if now - self._since > grace:
            processes.stop(self._record)
            self._note_end(now, f"It ran, but did not answer {self._child.health} for {grace:.0f} s; it was stopped.")
            return
        self._update_report("unhealthy" if self._was_healthy else "starting")

    def stop(self) -> None:
        """Stop the child and all its descendants. Blocks until they are gone."""
        if self._record is not None:
            processes.stop(self._record)
        processes.stop_marked(self._mark)
        processes.forget(self._child.name, self._home.processes)
        self._record = None
        self._update_report("stopped")

    @property
    def _mark(self) -> str:
        return f"{self._home.id}/{self._child.name}"

    def _start(self) -> None:
        # Descendants of a killed child, such as a worker, may still hold the port: stop them first.
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
            # The process may have started although its record could not be written: stop it, since nothing else would.
            processes.stop_marked(self._mark)
            self._note_end(self._clock(), str(exc), "port-taken" if isinstance(exc, PortTaken) else "waiting")
            return
        self._since, self._was_healthy = self._clock(), False
        log.info("started a child", extra={"child": self._child.name, "pid": self._record.pid})
        self._update_report("starting")

    def _note_end(self, now: float, message: str, state: ChildState = "waiting") -> None:
        self._record = None
        self._was_healthy, self._next_check = False, float("-inf")
        self._next_start = self._backoff.ended(now)
        wait = self._next_start - now
        log.warning("a child is not up", extra={"child": self._child.name, "why": message, "wait_seconds": wait})
        self._update_report(state, f"{message} It is started again in {wait:.1f} s.")

    def _update_report(self, state: ChildState, message: str = "") -> None:
        report = self._make_report(state, message)
        if report != self.report:
            self.report = report
            self._changed()

    def _make_report(self, state: ChildState, message: str = "") -> ChildReport:
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
