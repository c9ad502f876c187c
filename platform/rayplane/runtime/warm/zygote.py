"""The warm interpreter: imports what the node's processes use, then forks a child for each request of a shim.

    python -m rayplane.runtime.warm.zygote <descriptor of the listening socket> <folder> <pid of the parent>

It has one Python thread and holds nothing but the listening socket. It reads no request: the child does, so no command,
variable or secret of one job is ever in the memory from which the next is forked. The kernel reaps its children.
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
from rayplane.runtime.warm.child import Ground
from rayplane.runtime.warm.rules import NotWarm

log = logging.getLogger("rayplane.warm")

SHIM_PATIENCE = 60.0
"""Seconds that a shim may take over each part of its request: a busy machine may hold it up."""

Act = Callable[[], NoReturn]


def main() -> Act | None:
    """Serve until a signal ends this process; what the child is to do, in each child."""
    _log_here()
    environment, path = dict(os.environ), sys.path[1:]  # without the place of -m
    os.close(os.pidfd_open(os.getpid()))  # what a guardian needs: where the kernel has none, starts are plain
    family.die_with_parent(signal.SIGTERM)
    if os.getppid() != int(sys.argv[3]):
        return None  # it ended before this could be told
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    libraries.load(sys.argv[2])
    ground = Ground(environment, path)
    gc.collect()
    gc.freeze()  # so that a child's collections leave the shared pages as they are
    gc.disable()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        log.info("ready")
        return _serve(listener, ground)


def _log_here() -> None:
    """Log to standard error by this module's logger alone: the root logger is the children's to set up."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s warm interpreter: %(message)s"))
    log.addHandler(handler)
    log.setLevel(os.environ.get("RAYPLANE_WARM_LOG", "WARNING"))
    log.propagate = False


def _serve(listener: socket.socket, ground: Ground) -> Act | None:
    """Fork a child for each request; returns in the children alone."""
    while True:
        connection, _ = listener.accept()
        if _peer(connection)[1] != os.geteuid():
            log.warning("a request of user %d is refused", _peer(connection)[1])
        elif _forked():
            listener.close()
            act = _answer(connection, ground)
            if act is None:
                os._exit(0)
            return act
        connection.close()


def _forked() -> bool:
    """Whether this is the child. Where the kernel refuses another process, the shim hears nothing and starts plain."""
    try:
        return family.fork() == 0
    except OSError as exc:
        log.warning("no child can be forked: %s", exc)
        return False


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Pid and user of the process at the other end."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid), int(uid)


def _answer(connection: socket.socket, ground: Ground) -> Act | None:
    """In a fresh child: read the request and take it, or say that it needs a plain start."""
    connection.settimeout(SHIM_PATIENCE)
    try:
        request, streams = _read(connection)
        return _take(request, streams, connection, ground)
    except NotWarm as reason:
        log.info("a plain start: %s", reason)
        with suppress(OSError):
            connection.sendall(b"P")
    except (OSError, ValueError, KeyError, EOFError) as exc:  # the shim is gone, or was another program
        log.warning("a request is not taken: %s: %s", type(exc).__name__, exc)
    return None


def _take(request: child.Request, streams: list[int], connection: socket.socket, ground: Ground) -> Act:
    if request["kind"] == "worker":
        worker = child.prepare_worker(request, ground)
        child.become(request, streams)
        child.join_group(request["group"])
        connection.sendall(b"W")
        if connection.recv(1) != b"\0":
            raise ConnectionError("the shim has made a plain start")
        connection.close()
        return lambda: child.run_worker(worker, ground)
    child.check_process(_peer(connection)[0])
    run = child.prepare_run(request, ground)
    child.become(request, streams)
    family.guard(connection, request["group"])
    return lambda: child.run_entrypoint(run, ground)


def _read(connection: socket.socket) -> tuple[child.Request, list[int]]:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    while len(head) < 8:
        head += _part(connection, 8 - len(head))
    size, body = int.from_bytes(head, "big"), bytearray()
    while len(body) < size:
        body += _part(connection, min(size - len(body), 1 << 20))
    request: child.Request = marshal.loads(bytes(body))  # noqa: S302  the socket lies in a folder that is the owner's alone
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
