"""Connections to Ray's dashboards: only to addresses that were checked, and with one deadline for a whole call."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

from rayplane.errors import Unavailable
from rayplane.gateway.ray_address import IP, SETTING, AllowList, refusal

NOT_ALLOWED = "address-not-allowed"
"""The ``reason`` of an Unavailable for an address that the platform must not connect to."""

_AT_ONCE = 16 * 1024
"""Bytes of a request that are sent before the deadline is checked again."""


class Reach:
    """The addresses that a client may connect to. A name is resolved here, once, and the checked IP is connected to."""

    def __init__(self, allowed: AllowList, *, placed: bool) -> None:
        """``placed``: an admin of the platform chose the address, so it need not be among the allowed ones."""
        self._allowed = allowed
        self._placed = placed

    def choose(self, host: str, port: int, seconds: float | None) -> list[str]:
        """The host's IP addresses that may be connected to; raises Unavailable if there is none, or none in time."""
        known = [ip_address(text) for text in _resolve(host, port, seconds)]
        may = [str(ip) for ip in known if not self._problem(host, port, ip)]
        if may:
            return may
        problem = next((self._problem(host, port, ip) for ip in known), f"'{host}' has no address")
        raise Unavailable(
            f"The platform does not ask '{host}' at port {port}: {problem}.",
            remedy=f"Use an address that is allowed, or ask an admin to place the cluster or to add it to {SETTING}.",
            reason=NOT_ALLOWED,
        )

    def _problem(self, host: str, port: int, ip: IP) -> str:
        if never := refusal(ip):
            return never
        if self._placed or self._allowed.allows(host, ip, port):
            return ""
        return f"{ip} is not among the addresses that this platform allows"


class Clock(threading.local):
    """The deadline of the call that this thread is making; none outside of ``lasting``."""

    at: float | None = None

    @contextmanager
    def lasting(self, seconds: float) -> Iterator[None]:
        """Set the deadline of all of the block's operations together."""
        self.at = time.monotonic() + seconds
        try:
            yield
        finally:
            self.at = None

    def left(self, timeout: float | None) -> float | None:
        """Seconds that a single operation may take: its timeout or the time left; zero or less if the time is over."""
        if self.at is None:
            return timeout
        left = self.at - time.monotonic()
        return left if timeout is None else min(left, timeout)


class Transport(httpx.HTTPTransport):
    """httpx's transport, with a deadline and within a reach (None: any address, for the platform's own clusters)."""

    def __init__(self, tls: SSLContext, clock: Clock, reach: Reach | None) -> None:
        super().__init__(verify=tls, trust_env=False)
        # httpx (0.28) has no parameter for the network backend, the only place that sees a connection being opened.
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_Network(clock, reach),
        )


class _Network(httpcore.NetworkBackend):
    def __init__(self, clock: Clock, reach: Reach | None) -> None:
        self._clock = clock
        self._reach = reach
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        if self._reach is None:
            return self._connect(host, port, timeout, local_address, socket_options)
        last: httpcore.ConnectError | httpcore.ConnectTimeout = httpcore.ConnectError("no address")
        for ip in self._reach.choose(host, port, self._within(timeout)):
            try:
                return self._connect(ip, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                last = exc
        raise last

    def _connect(
        self,
        host: str,
        port: int,
        timeout: float | None,
        local_address: str | None,
        socket_options: Iterable[Any] | None,
    ) -> httpcore.NetworkStream:
        stream = self._plain.connect_tcp(host, port, self._within(timeout), local_address, socket_options)
        return _Stream(stream, self._clock)

    def _within(self, timeout: float | None) -> float | None:
        left = self._clock.left(timeout)
        if left is not None and left <= 0:
            raise httpcore.ConnectTimeout("no time is left to connect")
        return left


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._clock.left(timeout)
        if left is not None and left <= 0:
            raise httpcore.ReadTimeout("its answer takes too long as a whole")
        return self._stream.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _AT_ONCE):  # the timeout applies to each part, the deadline to all
            left = self._clock.left(timeout)
            if left is not None and left <= 0:
                raise httpcore.WriteTimeout("it takes the request too slowly")
            self._stream.write(buffer[start : start + _AT_ONCE], left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._clock.left(timeout)
        if left is not None and left <= 0:
            raise httpcore.ConnectTimeout("no time is left to connect")
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _resolve(host: str, port: int, seconds: float | None) -> list[str]:
    """The IP addresses of a host, each once. Raises Unavailable if it has none, or if resolving takes too long."""
    addresses: list[str] = []
    problem: list[str] = []

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses.extend(dict.fromkeys(str(row[4][0]) for row in rows))
        except (OSError, UnicodeError) as exc:
            problem.append(getattr(exc, "strerror", None) or type(exc).__name__)

    try:
        return [str(ip_address(host))]
    except ValueError:
        # The system's resolver can't be given a timeout: the thread of a slow one is abandoned, and ends by itself.
        thread = threading.Thread(target=ask, name=f"resolve-{host}", daemon=True)
        thread.start()
        thread.join(seconds)
    if thread.is_alive():
        raise Unavailable(f"The name '{host}' was not resolved within {seconds:.0f} s.", remedy="Try again.")
    if problem or not addresses:
        raise Unavailable(f"The name '{host}' can't be resolved: {problem[0] if problem else 'it has no address'}.")
    return addresses
