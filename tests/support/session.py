"""Two rules of a test session, as a pytest plugin: nothing is left running, and in CI nothing is skipped.

Every process that a test starts inherits RAYPLANE_TEST_SESSION, and hands it on to what it starts in turn: whatever
still carries the session's id at its end has leaked. It is named, the session fails, and it is stopped.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

MARK = "RAYPLANE_TEST_SESSION"

ALLOWED_SKIPS: dict[str, str] = {}
"""Part of a skip's reason -> why CI may go without that test."""

GRACE_SECONDS = 5.0
"""How long what a test has stopped may take to be gone."""


class Leak(NamedTuple):
    """A process of this session that outlived its tests."""

    pid: int
    command: str


class SessionRules:
    """Collects what was skipped, looks for what is left, and says so below the session's summary."""

    def __init__(self, session_id: str, *, in_ci: bool) -> None:
        self._id = session_id
        self._in_ci = in_ci
        self._skipped: list[str] = []
        self._problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a test that was skipped and not expected to fail."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._remember(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember a module that was skipped whole."""
        if report.skipped:
            self._remember(report)

    # Last, so that the fixtures of the session have been taken down even if it was interrupted.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the session for what it left running and, in CI, for what it skipped."""
        leaks = leaked(self._id, grace=GRACE_SECONDS)
        self._problems = [f"left running: process {leak.pid}: {leak.command}" for leak in leaks]
        for leak in leaks:
            with suppress(ProcessLookupError):
                os.kill(leak.pid, signal.SIGKILL)
        if self._in_ci:
            self._problems += [f"skipped in CI: {skip}" for skip in self._skipped]
        if self._problems and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what failed the session, for its closing line counts tests only."""
        if self._problems:
            terminalreporter.section("the session fails", red=True)
            for problem in self._problems:
                terminalreporter.write_line(problem)

    def _remember(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            self._skipped.append(f"{report.nodeid}: {reason}")


def leaked(session_id: str, *, grace: float) -> list[Leak]:
    """The processes, but for this one, that carry the session's id once ``grace`` seconds have passed."""
    deadline = time.monotonic() + grace
    while (found := _carrying(f"{MARK}={session_id}".encode())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Begin a session with a clean environment: no platform of the developer's is ever touched by a test."""
    if MARK in os.environ:
        session_id = ""  # pytest inside a test: the outer session looks for what is left
    else:
        session_id = os.environ[MARK] = secrets.token_hex(8)
    for name in os.environ:
        if name.startswith("RAYPLANE_") and name not in (MARK, "RAYPLANE_CACHE"):
            del os.environ[name]
    config.pluginmanager.register(SessionRules(session_id, in_ci=os.environ.get("CI") == "true"), "rayplane-session")


def _carrying(variable: bytes) -> list[Leak]:
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # A process may end, or be another user's, between the listing and the look.
        with suppress(OSError):
            if variable in Path(entry.path, "environ").read_bytes().split(b"\0"):
                command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(Leak(int(entry.name), command.strip()[:200]))
    return found
