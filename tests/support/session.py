"""Two rules of a test session, as a pytest plugin: no process is left running, and in CI no test is skipped.

Every process that a test starts, and its children, inherit RAYPLANE_TEST_SESSION: a process that still has the
session's id at its end has leaked. The plugin names it, fails the session, and stops it.

With pytest-xdist the session is that of the controller, to which workers report the modules that they skipped. The
tests of one module stay on one worker, as do all tests of the shared platform, the longest group, which begins first.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

MARK = "RAYPLANE_TEST_SESSION"

ALLOWED_SKIPS: dict[str, str] = {
    "only root gives processes another user": "who is not root can't have RAYPLANE_LOCAL_USERS; its refusal is tested",
    "other users can't enter the checkout": "teams' users could not read the packages, wherever CI has cloned to",
}
"""Part of a skip's reason -> why CI may skip that test."""

SHARED = "shared platform"
_ON_THE_SHARED = ("tests/system/", "tests/docs/test_notebook.py")
_ON_THEIR_OWN = ("tests/system/test_cluster_and_job.py", "tests/system/test_local_users.py")
"""Group of the tests with the fixture `platform_up`: on one worker, so that there is one platform."""

KUBERNETES, NODE = "fake nodes", "a real node"
"""Groups of the two test beds of tests/kubernetes: each on one worker, in parallel."""

_SKIPPED_MODULES = "rayplane_skipped_modules"

GRACE = "rayplane_leak_grace"
"""Pytest's setting for the seconds that stopped processes may take to vanish at the session's end."""


class Leak(NamedTuple):
    """A process of this session that outlived its tests."""

    pid: int
    command: str


class SessionRules:
    """Collects skips, finds leaked processes, and reports both below the session's summary."""

    def __init__(self, session_id: str, *, in_ci: bool, grace: float) -> None:
        self._id = session_id
        self._grace = grace
        self._in_ci = in_ci
        self._skipped: list[str] = []
        self._modules: list[str] = []
        self._problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a skipped test, unless it is an expected failure."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._remember(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a module that was skipped as a whole."""
        if report.skipped:
            self._remember(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Record the modules that a pytest-xdist worker skipped, once each: every worker collects all modules."""
        skipped = getattr(node, "workeroutput", {}).get(_SKIPPED_MODULES, [])
        self._skipped += [skip for skip in skipped if skip not in self._skipped]

    # trylast, so that the session's fixtures have been torn down even if it was interrupted.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the session for leaked processes and, in CI, for skipped tests."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_SKIPPED_MODULES] = self._modules
            return  # the controller decides, once all workers are gone
        leaks = leaked(self._id, grace=self._grace)
        self._problems = [f"left running: process {leak.pid}: {leak.command}" for leak in leaks]
        for leak in leaks:
            with suppress(ProcessLookupError):
                os.kill(leak.pid, signal.SIGKILL)
        if self._in_ci:
            self._problems += [f"skipped in CI: {skip}" for skip in self._skipped]
        if self._problems and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print why the session failed, since pytest's closing line counts only tests."""
        if self._problems:
            terminalreporter.section("the session fails", red=True)
            for problem in self._problems:
                terminalreporter.write_line(problem)

    def _remember(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            self._skipped.append(f"{report.nodeid}: {reason}")
            if isinstance(report, pytest.CollectReport):
                self._modules.append(self._skipped[-1])


def leaked(session_id: str, *, grace: float) -> list[Leak]:
    """Other processes that still have the session's id after ``grace`` seconds."""
    deadline = time.monotonic() + grace
    while (leaks := _carrying(f"{MARK}={session_id}".encode())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return leaks


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting of the grace, so that a session that leaks on purpose ends soon."""
    parser.addini(GRACE, "Seconds for which what a test has stopped may still be there", default="30")


def pytest_configure(config: pytest.Config) -> None:
    """Clean the environment, so that tests never touch the developer's own platform."""
    if MARK in os.environ:
        session_id = ""  # pytest inside a test: the outer session finds leaks
    else:
        session_id = os.environ[MARK] = secrets.token_hex(8)
    for name in os.environ:
        if name.startswith("RAYPLANE_") and name not in (MARK, "RAYPLANE_CACHE"):
            del os.environ[name]
    rules = SessionRules(session_id, in_ci=os.environ.get("CI") == "true", grace=float(config.getini(GRACE)))
    config.pluginmanager.register(rules, "rayplane-session")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers, keep the tests of a group on one of them, in order."""
    from xdist.scheduler import LoadScopeScheduling

    # The marker xdist_group does nothing here: pytest-xdist 3.8 sets an attribute that pytest 9.2 does not read.
    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector off while libraries are imported: all of it stays, and each look at it is lost."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order tests: first the shared platform's, which take longest, then modules with slow tests, then the rest.

    Of the shared platform's tests, the notebook's come last: Ray allows a client's server half a minute to start, and
    at first both workers start clusters.
    """
    slow = {module(item.nodeid) for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> tuple[bool, bool, bool]:
        shared = group(item.nodeid) == SHARED
        return not shared, module(item.nodeid) not in slow, shared and item.nodeid.startswith("tests/docs/")

    items.sort(key=place)


def group(nodeid: str) -> str:
    """The group of a test: the shared platform, a Kubernetes test bed, or its module."""
    path = module(nodeid)
    if path.startswith("tests/kubernetes/"):
        return NODE if path.endswith("_node.py") else KUBERNETES
    return SHARED if path.startswith(_ON_THE_SHARED) and path not in _ON_THEIR_OWN else path


def module(nodeid: str) -> str:
    """The path of a test's module."""
    return nodeid.partition("::")[0]


def _carrying(variable: bytes) -> list[Leak]:
    leaks = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # A process may have ended since the listing, or belong to another user.
        with suppress(OSError):
            if variable in Path(entry.path, "environ").read_bytes().split(b"\0"):
                command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                leaks.append(Leak(int(entry.name), command.strip()[:200]))
    return leaks
