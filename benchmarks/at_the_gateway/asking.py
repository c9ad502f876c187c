"""A minimal HTTP client, whose own cost is small: one keep-alive socket, one request after the other."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol


class Connection:
    """A keep-alive connection to the gateway on this host."""

    def __init__(self, port: int, token: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, path: str, body: Any = None) -> bytes:
        """GET, or POST ``body`` as JSON; returns the answer's body. Raises SystemExit unless the status is 2xx."""
        data = b"" if body is None else json.dumps(body).encode()
        verb = "GET" if body is None else "POST"
        more = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n" if data else ""
        self._socket.sendall(f"{verb} {path} HTTP/1.1\r\n{self._head}{more}\r\n".encode() + data)
        head, _, start = self._read_head().partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:"))
        parts, left = [start], length - len(start)
        while left > 0:
            part = self._receive()
            parts.append(part)
            left -= len(part)
        answer = b"".join(parts)
        if not lines[0].split(" ")[1].startswith("2"):
            raise SystemExit(f"{verb} {path}: {lines[0]}: {answer[:500]!r}")
        return answer

    def _read_head(self) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        return data

    def _receive(self) -> bytes:
        part = self._socket.recv(2**18)
        if not part:
            raise ConnectionError("the gateway closed the connection")
        return part


class Server(Protocol):
    """The server under measurement."""

    def connect(self) -> Connection:
        """Open a connection."""
        ...

    def cpu_seconds(self) -> float:
        """Seconds of CPU used since its start."""
        ...


def rate(server: Server, path: Callable[[int], str], *, connections: int, seconds: float) -> dict[str, float]:
    """Measure the answers per second over several connections, each of which sends its next request at once.

    Also the server's CPU per answer. ``path`` returns the path of a connection's n-th request.
    """
    counts = [0] * connections
    problems: list[BaseException] = []
    end = time.monotonic() + seconds

    def ask(number: int) -> None:
        try:
            with server.connect() as connection:
                while time.monotonic() < end:
                    connection.ask(path(counts[number]))
                    counts[number] += 1
        except BaseException as exc:  # noqa: BLE001  raised below, in the thread that measures
            problems.append(exc)

    began, cpu = time.monotonic(), server.cpu_seconds()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    took, used = time.monotonic() - began, server.cpu_seconds() - cpu
    total = sum(counts)
    return {"per_second": round(total / took, 1), "cpu_ms_each": round(1000 * used / total, 3), "requests": total}


def latencies(connection: Connection, path: str, rounds: int) -> list[float]:
    """Seconds of each of ``rounds`` requests, one after the other; sorted."""
    taken = []
    for _ in range(rounds):
        began = time.monotonic()
        connection.ask(path)
        taken.append(time.monotonic() - began)
    return sorted(taken)
