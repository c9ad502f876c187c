"""The detached supervisor, `python -m rayplane.client.up.supervisor`: keeps the children running until SIGTERM."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rayplane import telemetry
from rayplane.client.up import plan, rotated_logs, tools
from rayplane.client.up.state import ChildReport, SupervisorReport, read_report, read_state, write_report
from rayplane.client.up.watch import Watch
from rayplane.errors import Conflict, InvalidInput, RayplaneError
from rayplane.repeats import Repeats
from rayplane.settings import Home, load_gateway

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two checks of a child."""
LOGS_INTERVAL = 5.0
"""Seconds between two checks of the logs' sizes."""


def main() -> int:
    """Run until SIGTERM, then stop the children; return 0, or the exit code of the error that prevented the start."""
    try:
        _run()
    except RayplaneError as exc:
        print(f"rayplane supervisor: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


def _run() -> None:
    settings = load_gateway()
    telemetry.configure(settings.log_level)
    home = settings.home_paths
    state = read_state(home)
    if state is None:
        raise InvalidInput(f"'{home.state}' is missing or damaged.", remedy="Run 'rayplane up'.")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    with _SupervisorLock(home):
        binary = tools.find("prometheus") if state.prometheus_url else None
        children = plan.children(settings, state, prometheus=binary)
        Supervisor.load(home, children, log_bytes=settings.log_max_bytes, log_files=settings.log_files).run(stopping)


class Supervisor:
    """The children of one home, each supervised by its own thread, so that a slow one delays no other."""

    def __init__(
        self,
        home: Home,
        children: list[plan.Child],
        *,
        earlier: Mapping[str, ChildReport],
        environ: Mapping[str, str],
        log_bytes: int,
        log_files: int,
    ) -> None:
        """Rotate each log of the home that exceeds ``log_bytes``, keeping ``log_files`` parts.

        ``earlier`` has the children of the supervisor before, by name; ``environ`` is what they all inherit.
        """
        self._home = home
        self._log_bytes, self._log_files = log_bytes, log_files
        self._lock = threading.Lock()
        self._errors = Repeats(log)
        self._watches = [
            Watch(child, home=home, environ=environ, earlier=earlier.get(child.name), changed=self._write)
            for child in children
        ]

    @classmethod
    def load(
        cls, home: Home, children: list[plan.Child], *, log_bytes: int = 50 * 2**20, log_files: int = 3
    ) -> Supervisor:
        """Read the report of the supervisor before, whose children this one may adopt, and the environment."""
        return cls(
            home,
            children,
            earlier=read_report(home).children,
            environ=plan.inherited(os.environ),
            log_bytes=log_bytes,
            log_files=log_files,
        )

    def run(self, stopping: threading.Event) -> None:
        """Supervise the children until ``stopping`` is set; then stop them, the gateway first."""
        for watch in self._watches:
            watch.adopt()
        self._write()
        with ThreadPoolExecutor(len(self._watches) + 1, thread_name_prefix="watch") as threads:
            loops = [threads.submit(self._supervise, watch, stopping) for watch in self._watches]
            for done in [*loops, threads.submit(self._rotate_logs, stopping)]:
                done.result()
        log.info("stopping the children")
        gateway, *others = self._watches
        gateway.stop()  # first, since its reconcilers would recreate what else is stopped
        with ThreadPoolExecutor(max(1, len(others))) as threads:
            for done in [threads.submit(watch.stop) for watch in others]:
                done.result()

    def _supervise(self, watch: Watch, stopping: threading.Event) -> None:
        while not stopping.is_set():
            guarded(watch.report.name, watch.tick, self._errors)
            stopping.wait(INTERVAL)

    def _rotate_logs(self, stopping: threading.Event) -> None:
        while not stopping.wait(LOGS_INTERVAL):
            for path in sorted(self._home.logs.glob("*.log")):
                if not path.name.endswith(".previous.log"):  # no process writes to it any more
                    guarded(path.name, partial(self._rotate, path, stopping), self._errors, what="rotating %s")

    def _rotate(self, path: Path, stopping: threading.Event) -> None:
        if rotated_logs.rotate(path, most=self._log_bytes, kept=self._log_files, stopping=stopping.is_set):
            log.info("rotated a log", extra={"log": str(path)})

    def _write(self) -> None:
        with self._lock:
            report = SupervisorReport(pid=os.getpid(), children={w.report.name: w.report for w in self._watches})
            try:
                write_report(self._home, report)
                self._errors.works("the report")
            except OSError as exc:
                # A full disk must not end the supervision; `status` then shows an older state.
                self._errors.failed("the report", exc, "the report can't be written", traceback=False)


def guarded(name: str, tick: Callable[[], None], errors: Repeats, *, what: str = "looking after %s") -> None:
    """Run one check of a child or a log; log an error instead of raising it, so that checks go on."""
    try:
        tick()
        errors.works(name)
    except Exception as exc:  # noqa: BLE001  logged with its traceback the first time
        errors.failed(name, exc, f"{what} failed", name)


class _SupervisorLock:
    """The home's supervisor lock; entering raises Conflict if another supervisor has it."""

    def __init__(self, home: Home) -> None:
        self._path = home.path / "supervisor.lock"

    def __enter__(self) -> None:
        self._file = self._path.open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Conflict(f"Another supervisor runs for '{self._path.parent}'.") from exc

    def __exit__(self, *_: object) -> None:
        self._file.close()


if __name__ == "__main__":
    sys.exit(main())
