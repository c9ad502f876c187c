"""Child processes, with real ones: found and stopped with their descendants, and no unrelated process with them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rayplane import processes
from rayplane.errors import PortTaken
from rayplane.processes import ProcessRecord
from tests.support.local_platform import until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
# Starts a process without the mark in its session, prints its pid, and ends.
LEAVES = [
    sys.executable,
    "-c",
    f"import subprocess; print(subprocess.Popen({SLEEP!r}, env={{}}).pid, flush=True)",
]
# Starts a process in its session whose environment shows no mark, as if a title had overwritten it; prints its pid.
LEADS = [
    sys.executable,
    "-c",
    f"import subprocess; child = subprocess.Popen({SLEEP!r}, env={{}}); print(child.pid, flush=True); child.wait()",
]
# Opens a port in a thread, prints it, and ends its main thread, as happens while a multi-threaded process is killed.
HALF_ENDED = [
    sys.executable,
    "-c",
    "import ctypes, socket, threading, time\n"
    "held = socket.create_server(('127.0.0.1', 0))\n"
    "print(held.getsockname()[1], flush=True)\n"
    "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    "ctypes.CDLL(None).pthread_exit(None)",
]


@pytest.fixture
def mark() -> Iterator[str]:
    home = uuid.uuid4().hex
    yield f"{home}/child"
    processes.stop_marked(home, grace=2)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """An unrelated process: it leads its own session and has no mark."""
    with subprocess.Popen(SLEEP, start_new_session=True) as process:
        yield process
        process.kill()


def start(folder: Path, mark: str, argv: list[str]) -> ProcessRecord:
    return processes.start(
        "child", argv, mark=mark, log=folder / "child.log", records=folder / "records", env=dict(os.environ)
    )


def earlier(stranger: subprocess.Popen[bytes], mark: str, **changes: object) -> ProcessRecord:
    """The record of an earlier child that had the stranger's pid."""
    started = processes._start_time(stranger.pid)
    assert started is not None
    values = {"started": started - 1, "boot": processes._boot(), **changes}
    return ProcessRecord.model_validate(
        {"name": "child", "pid": stranger.pid, "session": stranger.pid, "mark": mark, **values}
    )


def test_a_child_is_found_by_its_record_and_stopped(tmp_path: Path, mark: str) -> None:
    record = start(tmp_path, mark, SLEEP)
    assert processes.load("child", tmp_path / "records") == record
    assert processes.alive(record)
    assert record.boot
    processes.stop(record, grace=5)
    assert not processes.alive(record)
    processes.stop(record)


def test_an_unmarked_process_that_a_child_left_in_its_session_is_stopped(tmp_path: Path, mark: str) -> None:
    record = start(tmp_path, mark, LEAVES)
    os.waitpid(record.pid, 0)
    left = int((tmp_path / "child.log").read_text())
    assert os.getsid(left) == record.session
    processes.stop(record, grace=5)
    assert processes._start_time(left) is None


def test_an_unmarked_process_is_found_by_its_session_leader_and_stopped_after_it(
    tmp_path: Path, mark: str, stranger: subprocess.Popen[bytes]
) -> None:
    record = start(tmp_path, mark, LEADS)
    log = tmp_path / "child.log"
    until(lambda: log.read_text().endswith("\n"), seconds=30, what="it told its child's pid")
    child = int(log.read_text())
    home = mark.partition("/")[0]
    assert processes.marked(home) == sorted([record.pid, child])
    processes.stop_marked(home, grace=5)
    assert processes._start_time(child) is None
    assert stranger.poll() is None


def test_a_child_whose_main_thread_has_ended_counts_as_alive_while_it_holds_its_port(tmp_path: Path, mark: str) -> None:
    record = start(tmp_path, mark, HALF_ENDED)
    until(lambda: (processes._stat(record.pid) or [""])[0] == "Z", seconds=30, what="its first thread has ended")
    port = int((tmp_path / "child.log").read_text())
    assert processes.alive(record)
    assert not processes.is_free(port)
    processes.stop(record, grace=5)
    assert not processes.alive(record)
    assert processes.is_free(port)


def test_a_process_that_was_found_once_is_waited_for_although_it_is_not_found_again(
    tmp_path: Path, mark: str, stranger: subprocess.Popen[bytes]
) -> None:
    answers = iter([[stranger.pid]])
    processes.stop_pids(lambda: next(answers, []), grace=5)
    assert stranger.poll() is not None


def test_an_unrelated_process_that_reuses_the_session_id_is_left_alone(
    tmp_path: Path, mark: str, stranger: subprocess.Popen[bytes]
) -> None:
    record = earlier(stranger, mark)
    marked = start(tmp_path, mark, SLEEP)
    until(lambda: marked.pid in processes.marked(mark), seconds=30, what="its mark can be read")
    assert not processes.alive(record)
    processes.stop(record, grace=5)
    assert stranger.poll() is None
    assert not processes.alive(marked), "what has the mark is stopped all the same"


@pytest.mark.parametrize("boot", ["", "another boot"])
def test_a_process_with_the_same_ids_in_another_boot_is_left_alone(
    mark: str, stranger: subprocess.Popen[bytes], boot: str
) -> None:
    record = earlier(stranger, mark, boot=boot, started=processes._start_time(stranger.pid))
    assert not processes.alive(record)
    processes.stop(record, grace=5)
    time.sleep(0.05)
    assert stranger.poll() is None


def test_the_start_time_of_a_child_is_read_from_the_process(tmp_path: Path, mark: str) -> None:
    before = datetime.now(UTC)
    record = start(tmp_path, mark, SLEEP)
    # The kernel counts start times in hundredths of a second.
    assert before - timedelta(seconds=0.05) <= processes.started_at(record) <= datetime.now(UTC)
    first = processes.started_at(record)
    time.sleep(0.3)
    assert abs(processes.started_at(record) - first) < timedelta(seconds=0.1)


LISTENS = """
import os, subprocess, sys
from rayplane import processes
from rayplane.errors import PortTaken
listener = processes.take_listener()
inherited = subprocess.run([sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"], capture_output=True)
print(processes.LISTENER in os.environ, str(listener.fileno()) in inherited.stdout.decode(), flush=True)
connection, _ = listener.accept()
connection.sendall(b"it is me")
connection.close()
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_child_accepts_on_the_socket_that_listened_before_its_imports(tmp_path: Path, mark: str, host: str) -> None:
    port = processes.free_port()
    record = processes.start(
        "child",
        [sys.executable, "-c", LISTENS],
        mark=mark,
        log=tmp_path / "child.log",
        records=tmp_path,
        env=dict(os.environ),
        port=port,
        listen=host,
    )
    with socket.create_connection((host, port), timeout=30) as connection:  # at once, without waiting for the child
        assert connection.recv(100) == b"it is me"
    os.waitpid(record.pid, 0)
    # The child's own children inherit neither the variable nor the socket.
    assert (tmp_path / "child.log").read_text() == "False False\n"
    assert processes.is_free(port, host)


def test_two_children_can_not_be_started_on_one_port_while_they_import(tmp_path: Path, mark: str) -> None:
    port = processes.free_port()

    def start_on_the_port(name: str) -> processes.ProcessRecord:
        return processes.start(
            name,
            SLEEP,
            mark=mark,
            log=tmp_path / f"{name}.log",
            records=tmp_path,
            env=dict(os.environ),
            port=port,
            listen="127.0.0.1",
        )

    start_on_the_port("first")
    with pytest.raises(PortTaken, match=str(port)):
        start_on_the_port("second")
    assert processes.load("second", tmp_path) is None


def test_the_user_of_a_listening_process_is_found() -> None:
    mine = {os.geteuid()}
    with (
        socket.create_server(("127.0.0.2", 0)) as one,
        socket.create_server(("0.0.0.0", 0)) as every,
    ):
        port, wide = one.getsockname()[1], every.getsockname()[1]
        assert processes.listening(port, "127.0.0.2") == mine
        assert processes.listening(port, "127.0.0.3") == set()
        assert processes.listening(wide, "127.0.0.2") == mine
    assert processes.listening(port, "127.0.0.2") == set()


def test_the_processes_of_users_are_found() -> None:
    assert os.getpid() in processes.of_users([os.geteuid(), 61234])
    assert processes.of_users([]) == []
    assert os.getpid() not in processes.of_users([os.geteuid() + 1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives processes another user")
def test_a_process_is_found_by_its_real_and_its_effective_user() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresuid(61231, 61232, 61233)
        os.write(writing, b"!")
        os.execvpe("sleep", ["sleep", "60"], {})
    try:
        assert os.read(reading, 1) == b"!"
        for user in (61231, 61232):
            assert pid in processes.of_users([user])
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
