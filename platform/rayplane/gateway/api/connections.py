"""Limits of the gateway's HTTP connections: their number, the size of a request's head, the time a request may take.

uvicorn's protocols read as long as bytes arrive. httptools copies a partial header at each read, so that one of 32 MiB
blocks the event loop for 10 s; neither it nor h11 ends a request that never completes. Responses have no time limit.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from rayplane.errors import RayplaneError, TooSlow, Unavailable
from rayplane.gateway import metrics
from rayplane.gateway.api.auth import OPEN, refuse
from rayplane.gateway.api.limit import headers_too_large
from rayplane.gateway.api.problems import MEDIA_TYPE, respond
from rayplane.settings import GatewaySettings

REST_SECONDS, REST_BYTES = 2.0, 256 * 2**10
"""Limits within which the rest of a request that was answered early is read and discarded: its client may read the
response only after sending all of it."""

PARTING = 1.0
"""Seconds between the last response and the end of a connection, in which nothing is read.

If it were closed at once, the client's system would get a reset for what it still sends, and discard the response.
"""

FOR_PROBES = 32
"""Connections beyond the maximum, on which only probes are answered: a gateway at its limit is busy, not dead."""

OTHER_FILES = 512
"""File descriptors that the gateway may need beside its connections."""

MOST_PARTING = OTHER_FILES // 2
"""Maximum connections in their last pause at once; beyond these a connection ends without the pause."""

Awaited = Literal["head", "body", "rest"]


@dataclass(frozen=True)
class Limits:
    """The limits of one server's connections."""

    head_bytes: int
    head_seconds: float
    body_seconds: float
    connections: int


class Door:
    """The connections of one server: their limits, and those that wait for a request, the longest first."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.parting = 0
        """Connections that have sent their last response and are not closed yet."""
        self._waiting: dict[Bounded, None] = {}

    def enter(self, connection: Bounded) -> int:
        """Admit a new connection; return how many more the limit allows, negative if there are too many.

        If there are too many, abort the one that has waited longest for a request, if any waits.
        """
        if len(connection.connections) > self.limits.connections and self._waiting:
            metrics.LIMITED.labels("connections").inc()
            longest = next(iter(self._waiting))
            self.busy(longest)
            longest.connections.discard(longest)  # connection_lost is called later
            longest.transport.abort()
        return self.limits.connections - len(connection.connections)

    def waits(self, connection: Bounded) -> None:
        """Note that the connection waits for a request; one that waits already stays where it is in the order."""
        self._waiting.setdefault(connection)

    def busy(self, connection: Bounded) -> None:
        """Note that the connection does not wait for a request any more."""
        self._waiting.pop(connection, None)


class ServerConfig(uvicorn.Config):
    """uvicorn's settings, with protocols that enforce the limits of a door."""

    def __init__(self, app: ASGIApp, limits: Limits, **options: Any) -> None:
        super().__init__(app, http=_fastest(), h11_max_incomplete_event_size=limits.head_bytes, **options)
        self.door = Door(limits)


def configure(app: ASGIApp, settings: GatewaySettings, **options: Any) -> ServerConfig:
    """Build uvicorn's settings for the gateway; ``options`` are further ones of uvicorn's."""
    limits = Limits(
        head_bytes=settings.max_header_bytes,
        head_seconds=settings.header_timeout,
        body_seconds=settings.body_timeout,
        connections=settings.max_connections,
    )
    return ServerConfig(
        app,
        limits,
        timeout_keep_alive=settings.keep_alive_timeout,
        # By default uvicorn would trust any process of this host to name a request's origin.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        ws_max_size=settings.max_header_bytes,  # a client that follows a log sends nothing
        **options,
    )


def allow_files(connections: int) -> None:
    """Raise the process's limit of open files to what that many connections need beside all else.

    Raises Unavailable if the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + FOR_PROBES + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Unavailable(
            f"The gateway may open {hard} files, too few for {connections} connections.",
            remedy=f"Raise the limit (ulimit -Hn {needed}), or lower RAYPLANE_MAX_CONNECTIONS.",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Bounded(asyncio.Protocol):
    """Mixin that adds the limits to one of uvicorn's HTTP protocols, the next base of a subclass."""

    app: Any
    config: uvicorn.Config
    connections: set[Any]
    cycle: Any
    flow: FlowControl
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.config, ServerConfig)
        self.door = self.config.door
        self._awaited: Awaited | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False  # true once a part of the next request has arrived
        self._rest = 0  # bytes that are still read and discarded
        self._parting = False

    @property
    def in_body(self) -> bool:
        """True if a request's head is complete and its body is not."""
        raise NotImplementedError

    @property
    def head_is_too_long(self) -> bool:
        """True if more bytes have arrived than a head may have, without completing one."""
        return False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        room = self.door.enter(self)
        if room < -FOR_PROBES:
            self.refuse(_full(self.door.limits.connections), "connections")
            return
        if room < 0:
            self.app = _only_probes(self.app, self.door.limits.connections)
        self.door.waits(self)
        self._await("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.door.busy(self)
        if self._parting:
            self.door.parting -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._parting:
            return
        self._begun = True
        super().data_received(data)
        if not self._parting:
            self._after(data)

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Refuse a websocket amid a response, or beyond the limit, where uvicorn would use the configured app."""
        if self._answering or self.app is not self.config.loaded_app:
            self.refuse(_full(self.door.limits.connections), "connections")
            return
        super().handle_websocket_upgrade(*event)  # type: ignore[misc]  # of uvicorn's protocol, the next base

    def answered(self) -> None:
        """Note that the response to a request has been sent."""
        if self._parting or self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._answering:  # the next request, which arrived together with this one
            self._look(0)
        elif self.in_body:
            self._rest = REST_BYTES
            self.door.waits(self)  # it has its response, so it may be aborted if there are too many
            self._await("rest")
        else:
            self._begun = False
            self.door.waits(self)

    def refuse(self, error: RayplaneError, limit: str) -> None:
        """Send the error, unless a response has begun, and end the connection."""
        metrics.LIMITED.labels(limit).inc()
        silent = self._awaited == "rest" or (self._answering and self.cycle.response_started)
        if self._answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not silent:
            self.transport.write(_as_http(error))
        self._part()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _after(self, data: bytes) -> None:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # a websocket has taken over
            self._await(None)
            self.door.busy(self)
        elif self.head_is_too_long:
            self.refuse(headers_too_large(self.door.limits.head_bytes), "headers")
        else:
            self._look(len(data))

    def _look(self, came: int) -> None:
        """Decide what is awaited of the client now, and time it."""
        if self.in_body and self._answering:
            self.door.busy(self)
            self._await("body")
        elif self.in_body:
            self._rest -= came
            if self._rest < 0:
                self._part()
        elif self._answering:
            self.door.busy(self)
            self._await(None)
        else:
            if self._awaited == "rest":  # now all of it has arrived, and nothing of the next request
                self._begun = False
            self.door.waits(self)
            self._await("head")

    def _await(self, what: Awaited | None) -> None:
        """Start the timer for what is awaited of the client. A body's starts again whenever a part of it arrives."""
        if what == self._awaited and what != "body":
            return
        self._stop_timer()
        self._awaited = what
        if what is not None:
            limits = self.door.limits
            seconds = {"head": limits.head_seconds, "body": limits.body_seconds, "rest": REST_SECONDS}[what]
            self._timer = self.loop.call_later(seconds, self._too_slow, what)

    def _too_slow(self, what: Awaited) -> None:
        if what == "body" and (self.flow.read_paused or self.cycle.waiting_for_100_continue):  # the gateway is slow
            self._await("body")
        elif what == "rest" or (what == "head" and not self._begun):
            self._part()
        else:
            limits = self.door.limits
            late = (
                f"The request's line and headers did not arrive within {limits.head_seconds:g} seconds."
                if what == "head"
                else f"The request's body did not go on within {limits.body_seconds:g} seconds."
            )
            self.refuse(TooSlow(late, remedy="Send it again, without a pause."), what)

    def _part(self) -> None:
        """End the connection so that the client still receives the response."""
        self._await(None)
        if not self._parting:
            self._parting = True
            self.door.parting += 1
        self.door.busy(self)
        self.connections.discard(self)  # it counts no more; connection_lost is called later
        pause = PARTING if self.door.parting <= MOST_PARTING else 0
        self._timer = self.loop.call_later(pause, self.transport.abort)
        if not self.transport.is_closing():
            self.flow.pause_reading()
            with suppress(OSError):  # the client has closed the connection
                self.transport.write_eof()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class BoundedH11(Bounded, H11Protocol):
    """uvicorn's protocol on h11, which limits heads itself but answers 400 to one that is too long."""

    @property
    def in_body(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY

    def send_400_response(self, msg: str) -> None:
        if getattr(sys.exception(), "error_status_hint", 400) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            self.refuse(headers_too_large(self.door.limits.head_bytes), "headers")
        else:
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.answered()


def _fastest() -> type[asyncio.Protocol]:
    """The protocol on httptools if it is installed, else on h11: as uvicorn chooses."""
    try:
        from rayplane.gateway.api.connections_httptools import BoundedHttpTools
    except ModuleNotFoundError as exc:
        if exc.name != "httptools":
            raise
        return BoundedH11
    return BoundedHttpTools


def _only_probes(app: ASGIApp, most: int) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN:
            await app(scope, receive, send)
            return
        metrics.LIMITED.labels("connections").inc()
        response = respond(_full(most), scope["path"])
        response.headers["Connection"] = "close"
        await refuse(response, scope, receive, send)

    return answer


def _full(most: int) -> Unavailable:
    return Unavailable(f"All {most} connections are in use.", remedy="Try again in a while.", retry_after=5)


def _as_http(error: RayplaneError) -> bytes:
    """The error as a raw HTTP response that announces the connection's end."""
    body = json.dumps(error.to_problem()).encode()
    retry = error.fields.get("retry_after")
    lines = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        *([] if retry is None else [f"retry-after: {retry}"]),
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
