"""The lifecycle of one child, with a real process: a small HTTP server that is killed, hung, and adopted."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayplane import processes
from rayplane.client.up import watch as watching
from rayplane.client.up.plan import Child
from rayplane.client.up.state import ChildReport
from rayplane.client.up.watch import Watch
from rayplane.settings import Home

# A child whose own child keeps the port when the child is killed, as with MLflow's server.
SERVER = """
import http.server, os, sys
if len(sys.argv) > 2 and os.fork():
    os.wait()
    sys.exit(1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    processes.stop_marked(made.id, grace=2)
    assert processes.marked(made.id) == []


class Clock:
    """The real clock, which a test can advance."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped


def server(home: Home, port: int, *more: str) -> Child:
    return Child(
        name="server",
        argv=(sys.executable, "-c", SERVER, str(port), *more),
        env={},
        port=port,
        url=f"http://127.0.0.1:{port}",
        health=f"http://127.0.0.1:{port}/",
        log=home.logs / "server.log",
        cwd=home.path,
    )


def watch(home: Home, child: Child, *, earlier: ChildReport | None = None, clock: Clock | None = None) -> Watch:
    return Watch(
        child,
        home=home,
        environ=dict(os.environ),
        earlier=earlier,
        changed=lambda: None,
        clock=clock or Clock(),
    )


def until(watched: Watch, done: Callable[[ChildReport], bool], seconds: float = 15) -> ChildReport:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        watched.tick()
        if done(watched.report):
            return watched.report
        time.sleep(0.02)
    raise AssertionError(f"not so after {seconds} s: {watched.report}")


def healthy(report: ChildReport) -> bool:
    return report.state == "healthy"


def test_a_child_is_started_and_reported_healthy(home: Home, free_port: int) -> None:
    watched = watch(home, server(home, free_port))
    report = until(watched, healthy)
    record = processes.load("server", home.processes)
    assert record is not None
    assert (record.pid, record.mark, record.port) == (report.pid, f"{home.id}/server", free_port)
    watched.stop()
    assert processes.marked(home.id) == []
    assert processes.is_free(free_port)


def test_a_killed_child_is_restarted_although_its_own_child_still_holds_the_port(home: Home, free_port: int) -> None:
    watched = watch(home, server(home, free_port, "fork"))
    first = until(watched, healthy)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    second = until(watched, lambda r: healthy(r) and r.pid != first.pid)
    assert second.restarts == 1
    assert len(processes.marked(home.id)) == 2  # the new child and its own child; the first two are gone


def test_a_child_that_ends_at_once_is_restarted_after_longer_and_longer_waits(home: Home, free_port: int) -> None:
    child = server(home, free_port)
    broken = Child(**{**vars(child), "argv": (sys.executable, "-c", "raise SystemExit('no')")})
    clock = Clock()
    watched = watch(home, broken, clock=clock)
    for restarts in (1, 2, 3):
        report = until(watched, lambda r, n=restarts: r.restarts == n)  # type: ignore[misc]
        assert report.state == "waiting"
        assert f"started again in {0.5 * 2 ** (restarts - 1):.1f} s" in report.message
        watched.tick()
        assert watched.report.pid is None, "it waits for its back-off"
        clock.skipped += 40


def test_a_child_that_hangs_is_stopped_and_restarted(home: Home, free_port: int) -> None:
    clock = Clock()
    watched = watch(home, server(home, free_port), clock=clock)
    first = until(watched, healthy)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    clock.skipped += watching.CHECK_INTERVAL
    watched.tick()
    assert watched.report.state == "unhealthy"
    clock.skipped += watching.HANG_GRACE + 1
    watched.tick()
    assert watched.report.state == "waiting"
    assert "did not answer" in watched.report.message
    clock.skipped += 1
    assert until(watched, healthy).pid != first.pid


def test_a_port_held_by_an_unrelated_process_is_reported_and_that_process_left_alone(home: Home) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        watched = watch(home, server(home, port))
        watched.tick()
        assert watched.report.state == "port-taken"
        assert str(port) in watched.report.message
        assert not processes.is_free(port)


def test_the_next_supervisor_adopts_an_unchanged_child(home: Home, free_port: int) -> None:
    child = server(home, free_port)
    first = until(watch(home, child), healthy)
    successor = watch(home, child, earlier=first)
    assert successor.adopt()
    assert until(successor, healthy).pid == first.pid
    assert successor.report.restarts == 0


def test_a_child_with_other_settings_is_replaced(home: Home, free_port: int) -> None:
    child = server(home, free_port)
    first = until(watch(home, child), healthy)
    changed = Child(**{**vars(child), "env": {"WHAT": "else"}})
    successor = watch(home, changed, earlier=first)
    assert not successor.adopt()
    second = until(successor, healthy)
    assert second.pid != first.pid
    assert len(processes.marked(home.id)) == 1


def test_a_child_whose_record_can_not_be_written_is_stopped(home: Home, free_port: int) -> None:
    home.processes.write_text("a file where the folder of records should be")
    watched = watch(home, server(home, free_port))
    watched.tick()
    assert watched.report.state == "waiting"
    assert processes.marked(home.id) == []


def test_a_child_whose_record_is_damaged_is_replaced(home: Home, free_port: int) -> None:
    child = server(home, free_port)
    first = until(watch(home, child), healthy)
    (home.processes / "server.json").write_text("{")
    successor = watch(home, child, earlier=first)
    assert not successor.adopt()
    assert until(successor, healthy).pid != first.pid
    assert len(processes.marked(home.id)) == 1
