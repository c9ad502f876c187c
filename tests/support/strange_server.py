"""An HTTP server on loopback with answers of a test's choice: slow, endless, wrong, redirects. Records requests."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

RAY = b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "c", "session_name": "session_2026-11-30_1"}'
PATIENCE = 40.0
"""Seconds after which an endless answer stops, so that a client that waits for it fails instead of hanging."""


class StrangeServer:
    """Records of the requests, and the state of the clients."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[str] = []
        """The heads of all requests."""
        self.sent = 0
        """Bytes of endless answers."""
        self.most_at_once = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._now = 0

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def header(self, name: str) -> list[str]:
        """Values of a header in all requests."""
        lines = [line for head in self.requests for line in head.split("\r\n")]
        return [line.partition(":")[2].strip() for line in lines if line.lower().startswith(f"{name.lower()}:")]

    @contextmanager
    def client(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


Answer = Callable[[socket.socket, StrangeServer], None]


def plain(body: bytes, *, status: str = "200 OK", headers: str = "") -> Answer:
    """A complete answer."""

    def answer(client: socket.socket, server: StrangeServer) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        client.sendall(head.encode() + body)

    return answer


def redirect(url: str) -> Answer:
    """A redirect to another URL."""
    return plain(b"", status="302 Found", headers=f"Location: {url}\r\n")


def drip(first: bytes, then: bytes = b"x") -> Answer:
    """An answer that begins at once and continues with a byte every fifth of a second."""

    def answer(client: socket.socket, server: StrangeServer) -> None:
        client.sendall(first)
        ends = time.monotonic() + PATIENCE
        while not server.stopping.wait(0.2) and time.monotonic() < ends:
            client.sendall(then)

    return answer


def endless(client: socket.socket, server: StrangeServer) -> None:
    """Send 64 MiB of an answer without a length."""
    client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(1024):
        if server.stopping.is_set():
            return
        client.sendall(b"x" * 65536)
        server.sent += 65536


@contextmanager
def strange_server(answer: Answer) -> Iterator[StrangeServer]:
    """Run a server that gives every request this answer."""
    made = StrangeServer()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            client.settimeout(PATIENCE)
            with made.client():
                head = b""
                while b"\r\n\r\n" not in head:
                    part = client.recv(65536)
                    if not part:
                        return
                    head += part
                made.requests.append(head.partition(b"\r\n\r\n")[0].decode("latin-1"))
                try:
                    answer(client, made)
                except OSError:  # the client has left
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore errors of clients that leave."""

    with Server(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.stopping.set()
            server.shutdown()
            thread.join(timeout=20)
