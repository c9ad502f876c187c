"""The warm interpreter: imports common libraries, then forks a child for each request of a shim.

    python -m rayplane.runtime.warm.zygote <descriptor of the listening socket> <folder> <pid of the parent>

It has one Python thread and only the listening socket open. It never reads a request; the child does, so that no
command, variable or secret of one job is ever in the memory from which the next is forked. The kernel reaps its
children.
"""

from __future__ import annotations

import gc
import logging
import marshal
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from rayplane.runtime.warm import child, family, libraries
from rayplane.runtime.warm.child import Baseline
from rayplane.runtime.warm.rules import NotWarm

log = logging.getLogger("rayplane.warm")

SHIM_PATIENCE = 60.0
"""Seconds that a shim may take for each part of its request: it may be slow on a busy machine."""

Act = Callable[[], NoReturn]


def main() -> Act | None:
    """Serve until a signal ends this process. Returns only in the children: the function to run, or None."""
    _configure_logging()
    environment, path = dict(os.environ), sys.path[1:]  # without the first entry, which -m adds
    os.close(os.pidfd_open(os.getpid()))  # fails without pidfds, which guardians need: all starts are plain then
    family.die_with_parent(signal.SIGTERM)
    if os.getppid() != int(sys.argv[3]):
        return None  # the parent ended before the line above took effect
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    libraries.load(sys.argv[2])
    baseline = Baseline(environment, path)
    gc.collect()
    gc.freeze()  # so that garbage collection in children does not write to shared pages
    gc.disable()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        log.info("ready")
        return _serve(listener, baseline)


def _configure_logging() -> None:
    """Log to standard error by this module's logger only: the children configure the root logger."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s warm interpreter: %(message)s"))
    log.addHandler(handler)
    log.setLevel(os.environ.get("RAYPLANE_WARM_LOG", "WARNING"))
    log.propagate = False


def _serve(listener: socket.socket, baseline: Baseline) -> Act | None:
    """Fork a child for each request; returns only in the children."""
    while True:
        connection, _ = listener.accept()
        if _peer(connection)[1] != os.geteuid():
            log.warning("a request of user %d is refused", _peer(connection)[1])
        elif _fork_child():
            listener.close()
            act = _handle(connection, baseline)
            if act is None:
                os._exit(0)
            return act
        connection.close()


def _fork_child() -> bool:
    """Fork; True in the child. If the kernel refuses, the shim gets no answer and makes a plain start."""
    try:
        return family.fork() == 0
    except OSError as exc:
        log.warning("no child can be forked: %s", exc)
        return False


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Pid and uid of the process at the other end."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid), int(uid)


def _handle(connection: socket.socket, baseline: Baseline) -> Act | None:
    """In a new child: read the request; accept it, or answer that it needs a plain start."""
    connection.settimeout(SHIM_PATIENCE)
    try:
        request, streams = _read(connection)
        return _accept(request, streams, connection, baseline)
    except NotWarm as reason:
        log.info("a plain start: %s", reason)
        with suppress(OSError):
            connection.sendall(b"P")
    except (OSError, ValueError, KeyError, EOFError) as exc:  # the shim is gone, or the peer is another program
        log.warning("a request is not taken: %s: %s", type(exc).__name__, exc)
    return None


def _accept(request: child.Request, streams: list[int], connection: socket.socket, baseline: Baseline) -> Act:
    if request["kind"] == "worker":
        worker = child.prepare_worker(request, baseline)
        child.take_over(request, streams)
        child.join_group(request["group"])
        connection.sendall(b"W")
        if connection.recv(1) != b"\0":
            raise ConnectionError("the shim has made a plain start")
        connection.close()
        return lambda: child.run_worker(worker, baseline)
    child.check_process(_peer(connection)[0])
    run = child.prepare_run(request, baseline)
    child.take_over(request, streams)
    family.guard(connection, request["group"])
    return lambda: child.run_entrypoint(run, baseline)


def _read(connection: socket.socket) -> tuple[child.Request, list[int]]:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    while len(head) < 8:
        head += _part(connection, 8 - len(head))
    size, body = int.from_bytes(head, "big"), bytearray()
    while len(body) < size:
        body += _part(connection, min(size - len(body), 1 << 20))
    request: child.Request = marshal.loads(bytes(body))  # noqa: S302  only the owner can reach the socket's folder
    if len(streams) != 3:
        raise ValueError(f"{len(streams)} streams came with the request, three are needed")
    return request, streams


def _part(connection: socket.socket, size: int) -> bytes:
    part = connection.recv(size)
    if not part:
        raise EOFError("the shim left before its request was whole")
    return part


if __name__ == "__main__":
    _act = main()
    if _act is not None:
        _act()
