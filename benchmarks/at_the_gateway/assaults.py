"""Hostile and clumsy callers of a gateway, each in its own process; each returns the bytes it sent and the answers."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

MIB = 2**20
SLOW, TAILS, PLANS = 500, 300, 60
_PIECE = b"y" * 65536
_PATIENCE = 60.0


@dataclass(frozen=True)
class Target:
    """The gateway under assault, and the tokens and paths that its callers use."""

    port: int
    token: str
    """Token of the local user, an admin."""
    metrics_token: str
    tail: str
    """Path by which Ray's clients follow a log that grows."""
    team: str
    seconds: float
    """Seconds that callers stay that only hold connections."""

    def connect(self) -> socket.socket:
        """Open a connection, without sending a request."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE)


def headers(target: Target) -> dict[str, Any]:
    """Send 64 MiB of headers in one request, once as one header and once as many, without a token."""
    sent = 0
    answers = Counter[str]()
    for piece in (_PIECE, b"x: y\r\n" * 10_000):
        with target.connect() as connection:
            connection.sendall(b"GET /v1/info HTTP/1.1\r\nx: ")
            came, status = _send(connection, piece, 64 * MIB)
            sent += came
            answers[status] += 1
    return {"bytes": sent, "answers": answers}


def slow(target: Target) -> dict[str, Any]:
    """Open 500 connections that each send one byte of a request per second, without a token."""
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect()) for _ in range(SLOW)]
        end = time.monotonic() + target.seconds
        request = iter(b"GET /v1/info HTTP/1.1\r\nHost: here\r\nx: " + b"y" * 10_000)
        closed: set[int] = set()
        while time.monotonic() < end:
            byte = bytes([next(request)])
            for number, connection in enumerate(connections):
                if number not in closed:
                    try:
                        connection.sendall(byte)
                    except OSError:
                        closed.add(number)
            time.sleep(1)
    return {"connections": SLOW, "closed": len(closed)}


def tails(target: Target) -> dict[str, Any]:
    """Follow a log that grows by 300 connections of one principal."""
    handshake = (
        f"GET {target.tail} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {target.token}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n\r\n"
    ).encode()
    answers = Counter[str]()
    received = 0
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect()) for _ in range(TAILS)]
        for connection in connections:
            connection.sendall(handshake)
        for connection in connections:
            answers[_status(connection.recv(65536))] += 1
            connection.setblocking(False)
        end = time.monotonic() + target.seconds
        while time.monotonic() < end:
            for connection in connections:
                try:
                    received += len(connection.recv(MIB))
                except OSError:
                    continue
            time.sleep(0.05)
    return {"followers": TAILS, "answers": answers, "bytes": received}


def plans(target: Target) -> dict[str, Any]:
    """Ask for 60 plans at once of clusters whose address is a server that sends a byte every fifth of a second."""
    with _dripping() as port:
        document = {
            "kind": "Cluster",
            "metadata": {"name": "far"},
            "spec": {"backend": "existing", "address": f"http://127.0.0.1:{port}"},
        }
        body = json.dumps({"documents": [document], "team": target.team}).encode()

        def plan(_: int) -> str:
            with target.connect() as connection:
                connection.sendall(_head("POST", "/v1/plan", target.token, len(body), "application/json") + body)
                return _status(connection.recv(65536))

        with ThreadPoolExecutor(PLANS) as pool:
            answers = Counter(pool.map(plan, range(PLANS)))
    return {"plans": PLANS, "answers": answers}


def bodies(target: Target) -> dict[str, Any]:
    """Send bodies of 300 MiB: to a path with a segment `packages`, to a package's route, and to a route for JSON."""
    clusters = f"/v1/teams/{target.team}/clusters/packages"
    package = f"/v1/teams/{target.team}/packages/{'ab' * 32}"
    answers = Counter[str]()
    sent = 0
    for method, path, token in (
        ("PUT", clusters, target.metrics_token),
        ("PUT", clusters, target.token),
        ("PUT", package, target.metrics_token),
        ("PUT", package, target.token),
        ("POST", "/v1/plan", target.token),
    ):
        for length in (300 * MIB, None):
            with target.connect() as connection:
                connection.sendall(_head(method, path, token, length, "application/octet-stream"))
                piece = _PIECE if length else b"10000\r\n" + _PIECE + b"\r\n"
                came, status = _send(connection, piece, 300 * MIB)
                sent += came
                answers[f"{path.rpartition('/')[0] or path} {status}"] += 1
    return {"bytes": sent, "answers": answers}


ASSAULTS: dict[str, Callable[[Target], dict[str, Any]]] = {
    "64 MiB of headers": headers,
    "500 slow connections": slow,
    "300 log tails": tails,
    "60 plans to a dripping server": plans,
    "bodies of 300 MiB": bodies,
}


@contextmanager
def under_way(names: list[str], target: Target) -> Iterator[Callable[[], dict[str, Any]]]:
    """Start these assaults at once. Yields a function that waits until all have ended and returns their records."""
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], {}
    for name in names:
        pipes[name], theirs = context.Pipe(duplex=False)
        # A spawned process gets its arguments through a pipe: the token is not on its command line.
        process = context.Process(target=_assault, args=(name, target, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
    try:
        yield lambda: {name: pipe.recv() for name, pipe in pipes.items()}
    finally:
        for process in processes:
            process.kill()
            process.join()


def _assault(name: str, target: Target, pipe: Pipe) -> None:
    os.nice(5)  # so that the callers do not slow the probe on this host: the figure is the gateway's
    began = time.monotonic()
    record = ASSAULTS[name](target)
    pipe.send({**record, "seconds": round(time.monotonic() - began, 2)})


def _head(method: str, path: str, token: str, length: int | None, kind: str) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}", f"Content-Type: {kind}"]
    return "\r\n".join([*lines, size, "", ""]).encode()


def _send(connection: socket.socket, piece: bytes, total: int) -> tuple[int, str]:
    """Send until the gateway closes the connection; returns (bytes that it accepted, status of its answer)."""
    sent = 0
    try:
        while sent < total:
            connection.sendall(piece)
            sent += len(piece)
    except OSError:
        pass  # the gateway closed the connection; its answer came before
    try:
        return sent, _status(connection.recv(65536))
    except OSError:
        return sent, "cut off"


def _status(answer: bytes) -> str:
    return answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "cut off"


@contextmanager
def _dripping() -> Iterator[int]:
    """Run a server that never completes its answer; yields its port."""
    stopping = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            client.recv(65536)
            try:
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not stopping.wait(0.2):
                    client.sendall(b"x")
            except OSError:
                return  # the gateway gave up and closed the connection

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            stopping.set()
            server.shutdown()
            thread.join()
