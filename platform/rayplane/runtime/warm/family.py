"""A guardian process between the warm interpreter and one entrypoint: forwards signals, reports the exit status.

The shim has the entrypoint's place in the process tree, so signals to the shim must reach the entrypoint: the guardian
forwards them to the entrypoint and its descendants, and kills all of these if the shim is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import time
import warnings
from collections.abc import Iterable
from typing import NoReturn

from rayplane.runtime.warm import ending

KILL_PATIENCE = 30.0
"""Seconds that killed processes may take to end; after that the guardian leaves them to the kernel."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int) -> None:
    """Make the kernel send this process a signal when the thread that forked it ends."""
    if _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def fork() -> int:
    """``os.fork`` without Python 3.12's warning that libraries have threads: docs/starts.md says why that is safe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def guard(connection: socket.socket, group: int) -> None:
    """Fork the entrypoint's process; become its guardian until it ends, then exit. Returns only in the fork.

    ``group`` is the shim's process group. Raises OSError, without running the entrypoint, if the shim is gone or the
    kernel refuses; the shim then makes a plain start.
    """
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):  # orphans of the entrypoint become this process' children
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    guardian = os.getpid()
    gate, release = os.pipe()
    pid = fork()
    if pid == 0:
        die_with_parent(signal.SIGKILL)
        os.close(release)
        if os.getppid() != guardian or not os.read(gate, 1):
            os._exit(1)
        os.close(gate)
        os.setsid()
        connection.close()
        return
    try:
        pidfd = os.pidfd_open(pid)
        connection.sendall(b"E" + pid.to_bytes(4, "big"))
        if connection.recv(1) != b"\0":
            raise ConnectionError("the shim has made a plain start")
        os.write(release, b"\0")
    except OSError:
        os.kill(pid, signal.SIGKILL)
        raise
    os.close(gate)
    os.close(release)
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _follow(connection, pid, pidfd, group)


def _follow(connection: socket.socket, pid: int, pidfd: int, group: int) -> NoReturn:
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # so that readers of the entrypoint's output do not wait for this process
        os.dup2(nothing, stream)
    connection.settimeout(None)
    stopping, status, wait = False, None, 5.0
    while True:
        watched: list[int | socket.socket] = [connection] if status is not None else [connection, pidfd]
        ready, _, _ = select.select(watched, [], [], wait)
        if pidfd in ready and status is None:
            status = os.waitpid(pid, 0)[1]
        if connection in ready:
            numbers = _receive_signals(connection)
            if not numbers:
                _kill_descendants()
                os._exit(0)
            stopping = _forward(numbers, pid if status is None else None) or stopping
        _reap(pid if status is None else 0)
        if status is not None and not (stopping and _descendants(os.getpid())):
            break
        wait = 0.02 if status is not None else 5.0
    with contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(4, "big"))
    connection.close()
    ending.report_end(os.environ)
    _kill_group(pid, group)
    os._exit(0)


def _kill_group(pid: int, group: int) -> None:
    """Kill the rest of the entrypoint's group once the shim's group is empty, as Ray kills an ended job's group."""
    while _group_exists(pid) and _group_exists(group):
        time.sleep(1.0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _receive_signals(connection: socket.socket) -> bytes:
    """Numbers of signals that the shim received; empty once the shim is gone."""
    try:
        return connection.recv(64)
    except OSError:
        return b""


def _forward(numbers: bytes, pid: int | None) -> bool:
    """Forward signals; True if one ends the job. Those go to all descendants, as Ray sends them to all of a job."""
    stopping = False
    for number in numbers:
        ends = number in (signal.SIGTERM, signal.SIGINT)
        stopping = stopping or ends
        if ends:
            _send(number, _descendants(os.getpid()))
        elif pid is not None:
            _send(number, [pid])
    return stopping


def _kill_descendants() -> None:
    deadline = time.monotonic() + KILL_PATIENCE
    while (left := _descendants(os.getpid())) and time.monotonic() < deadline:
        _send(signal.SIGKILL, left)
        _reap(0)
        time.sleep(0.01)


def _reap(spared: int) -> None:
    """Reap ended children, which are orphans of the entrypoint, but never the entrypoint itself (``spared``)."""
    for pid in _children(os.getpid()):
        if pid != spared:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended or is another user's
            os.kill(pid, number)


def _descendants(root: int) -> list[int]:
    """Pids of all living descendants of ``root``."""
    processes = _parents()
    living, queue = [], [root]
    while queue:
        parent = queue.pop()
        children = [pid for pid, (its_parent, _) in processes.items() if its_parent == parent]
        queue += children
        living += [pid for pid in children if processes[pid][1] not in "ZX"]
    return living


def _children(parent: int) -> list[int]:
    return [pid for pid, (its_parent, _) in _parents().items() if its_parent == parent]


def _parents() -> dict[int, tuple[int, str]]:
    """Map each process' pid to its parent's pid and its state."""
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{entry.name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                parents[int(entry.name)] = (int(parent), state.decode())
    return parents
