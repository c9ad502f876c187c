"""A guardian between the warm interpreter and one entrypoint: passes signals on, and tells how it ended.

The shim is in the entrypoint's place in the tree of processes, so what is done to it is done to the entrypoint: a
signal goes on to the entrypoint and all that it started, and if the shim is killed all of them are.
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
"""Seconds for which what was killed may take to end; what the kernel holds for longer is left to it."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends."""
    if _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def fork() -> int:
    """``os.fork`` without Python 3.12's warning that libraries have threads: docs/starts.md says why that is safe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def guard(connection: socket.socket, group: int) -> None:
    """Fork the entrypoint, and follow it in this process to its end and exit. Returns in the child alone.

    ``group`` is the shim's. Raises OSError, and lets nothing run, where the shim is gone, or the kernel refuses: the
    shim makes a plain start then.
    """
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):  # whatever the entrypoint starts stays ours to end
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    guardian = os.getpid()
    held_back, release = os.pipe()
    pid = fork()
    if pid == 0:
        die_with_parent(signal.SIGKILL)
        os.close(release)
        if os.getppid() != guardian or not os.read(held_back, 1):
            os._exit(1)
        os.close(held_back)
        os.setsid()
        connection.close()
        return
    try:
        ended = os.pidfd_open(pid)
        connection.sendall(b"E" + pid.to_bytes(4, "big"))
        if connection.recv(1) != b"\0":
            raise ConnectionError("the shim has made a plain start")
        os.write(release, b"\0")
    except OSError:
        os.kill(pid, signal.SIGKILL)
        raise
    os.close(held_back)
    os.close(release)
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _follow(connection, pid, ended, group)


def _follow(connection: socket.socket, pid: int, ended: int, group: int) -> NoReturn:
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the reader of its output waits for the entrypoint alone
        os.dup2(nothing, stream)
    connection.settimeout(None)
    stopping, status, wait = False, None, 5.0
    while True:
        watched: list[int | socket.socket] = [connection] if status is not None else [connection, ended]
        ready, _, _ = select.select(watched, [], [], wait)
        if ended in ready and status is None:
            status = os.waitpid(pid, 0)[1]
        if connection in ready:
            numbers = _received(connection)
            if not numbers:
                _end_all()
                os._exit(0)
            stopping = _pass_on(numbers, pid if status is None else None) or stopping
        _reap(pid if status is None else 0)
        if status is not None and not (stopping and _descendants(os.getpid())):
            break
        wait = 0.02 if status is not None else 5.0
    with contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(4, "big"))
    connection.close()
    ending.tell(os.environ)
    _end_group(pid, group)
    os._exit(0)


def _end_group(pid: int, group: int) -> None:
    """Kill what the entrypoint left in its group once the shim's is empty, as Ray kills the group of an ended job."""
    while _is_there(pid) and _is_there(group):
        time.sleep(1.0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _received(connection: socket.socket) -> bytes:
    """The numbers of signals that the shim got; empty once it is gone."""
    try:
        return connection.recv(64)
    except OSError:
        return b""


def _pass_on(numbers: bytes, pid: int | None) -> bool:
    """Send the signals on; whether one asks the job to end. Ray sends those to all that a job started."""
    stopping = False
    for number in numbers:
        ends = number in (signal.SIGTERM, signal.SIGINT)
        stopping = stopping or ends
        if ends:
            _send(number, _descendants(os.getpid()))
        elif pid is not None:
            _send(number, [pid])
    return stopping


def _end_all() -> None:
    deadline = time.monotonic() + KILL_PATIENCE
    while (left := _descendants(os.getpid())) and time.monotonic() < deadline:
        _send(signal.SIGKILL, left)
        _reap(0)
        time.sleep(0.01)


def _reap(spared: int) -> None:
    """Take up the ended among what the entrypoint left behind; never the entrypoint itself, which is ``spared``."""
    for pid in _children(os.getpid()):
        if pid != spared:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or is another user's
            os.kill(pid, number)


def _descendants(root: int) -> list[int]:
    """All processes below ``root`` that have not ended."""
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
    """Pid -> (its parent, its state), of all processes."""
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{entry.name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                parents[int(entry.name)] = (int(parent), state.decode())
    return parents
