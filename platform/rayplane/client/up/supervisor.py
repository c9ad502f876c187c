"""The detached supervisor, `python -m rayplane.client.up.supervisor`: keeps the children up until told to stop."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rayplane import telemetry
from rayplane.client.up import plan, tools
from rayplane.client.up.state import SupervisorReport, read_report, read_state, write_report
from rayplane.client.up.watch import Watch
from rayplane.errors import Conflict, InvalidInput, RayplaneError
from rayplane.repeats import Repeats
from rayplane.settings import Home, load_gateway

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two looks at a child."""


def main() -> int:
    """Run until SIGTERM, then stop the children. The exit code: 0, or that of what forbade the start."""
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
    with _only_one(home):
        binary = tools.find("prometheus") if state.prometheus_url else None
        Supervisor(home, plan.children(settings, state, prometheus=binary)).run(stopping)


class Supervisor:
    """The children of one home, each looked after by a thread of its own, so that a slow one holds up no other."""

    def __init__(self, home: Home, children: list[plan.Child]) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._errors = Repeats(log)
        earlier = read_report(home).children
        environ = plan.inherited(os.environ)
        self._watches = [
            Watch(child, home=home, environ=environ, earlier=earlier.get(child.name), changed=self._write)
            for child in children
        ]

    def run(self, stopping: threading.Event) -> None:
        """Look after the children until ``stopping`` is set; then stop them, the gateway first."""
        for watch in self._watches:
            watch.adopt()
        self._write()
        with ThreadPoolExecutor(len(self._watches), thread_name_prefix="watch") as threads:
            for done in [threads.submit(self._keep, watch, stopping) for watch in self._watches]:
                done.result()
        log.info("stopping the children")
        gateway, *others = self._watches
        gateway.stop()  # first, so that its reconcilers see nothing vanish that they would make again
        with ThreadPoolExecutor(max(1, len(others))) as threads:
            for done in [threads.submit(watch.stop) for watch in others]:
                done.result()

    def _keep(self, watch: Watch, stopping: threading.Event) -> None:
        while not stopping.is_set():
            guarded(watch.report.name, watch.tick, self._errors)
            stopping.wait(INTERVAL)

    def _write(self) -> None:
        with self._lock:
            report = SupervisorReport(pid=os.getpid(), children={w.report.name: w.report for w in self._watches})
            try:
                write_report(self._home, report)
                self._errors.works("the report")
            except OSError as exc:
                # A full disk must not end the supervision; `status` then shows older news.
                self._errors.failed("the report", exc, "the report can't be written", traceback=False)


def guarded(name: str, tick: Callable[[], None], errors: Repeats) -> None:
    """Run one look at a child; an error is logged, and the next look is made all the same."""
    try:
        tick()
        errors.works(name)
    except Exception as exc:  # noqa: BLE001  logged with its traceback the first time
        errors.failed(name, exc, "looking after %s failed", name)


class _only_one:  # noqa: N801  reads as the sentence that it is
    """Holds the home's supervisor lock; raises Conflict if another supervisor has it."""

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
