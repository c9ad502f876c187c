"""Limits of every request, whatever its route: bytes of head and body, and requests under way per principal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayplane.errors import HeadersTooLarge, RayplaneError, TooLarge, TooMany, Unavailable
from rayplane.gateway import metrics
from rayplane.gateway.api.auth import refuse
from rayplane.gateway.api.problems import respond

MAX_BYTES = 16 * 2**20
"""Maximum bytes of a body, unless its route sets another limit (``allow_body``): it is read whole, as JSON."""

MOST_IN_MEMORY = 128 * 2**20
"""Maximum bytes of bodies in memory at once, of all requests together."""

_BODY = "rayplane.body"


@dataclass(frozen=True)
class Body:
    """The limit of the body that a route accepts."""

    most: int
    what: str = "request"
    remedy: str = "Send it in parts."
    in_memory: bool = True
    """True if the route holds the whole body in memory."""

    def too_large(self) -> TooLarge:
        """The error for a larger body."""
        most = f"{self.most // 2**20} MiB" if self.most >= 2**20 else f"{self.most} bytes"
        return TooLarge(f"The {self.what} has more than {most}.", remedy=self.remedy)


def allow_body(scope: Scope, body: Body) -> None:
    """Set the limit of the request's body. Its route calls it before it reads any of the body."""
    scope[_BODY] = body


class Limit:
    """ASGI middleware: answers 431 to a head that is too long, and 413 to a body that is.

    It checks a body's declared length before a byte is read, and its actual length while it is read, against the limit
    of the route that reads it.
    """

    def __init__(self, app: ASGIApp, head_bytes: int) -> None:
        self._app = app
        self._head_bytes = head_bytes
        self._in_memory = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if _head_size(scope) > self._head_bytes:
            metrics.LIMITED.labels("headers").inc()
            error = headers_too_large(self._head_bytes)
            await refuse(respond(error, scope["path"]), scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        read = in_memory = 0
        answering = False

        async def counting() -> Message:
            nonlocal read, in_memory
            body: Body = scope.get(_BODY) or Body(MAX_BYTES)
            if not answering and declared.isdecimal() and int(declared[:20]) > body.most:
                raise _counted(body.too_large())
            message = await receive()
            received = len(message.get("body", b""))
            if answering:  # the rest of the body is discarded
                return message
            read += received
            if read > body.most:
                raise _counted(body.too_large())
            if body.in_memory:
                in_memory += received
                self._in_memory += received
                if self._in_memory > MOST_IN_MEMORY:
                    raise _counted(Unavailable("Too many large requests at once.", remedy="Try again.", retry_after=1))
            return message

        async def noting(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._app(scope, counting, noting)
        finally:
            self._in_memory -= in_memory


class Share:
    """ASGI middleware behind the token check: answers 429 if a principal has too many requests under way."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = scope.get("rayplane.principal")
        if scope["type"] != "http" or principal is None:
            await self._app(scope, receive, send)
            return
        if self._open[principal.name] >= self._most:
            metrics.LIMITED.labels("requests").inc()
            error = TooMany(
                f"'{principal.name}' has {self._most} requests under way.",
                remedy="Wait for some of them, then send this one again.",
                retry_after=1,
            )
            await refuse(respond(error, scope["path"]), scope, receive, send)
            return
        self._open[principal.name] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[principal.name] -= 1
            if not self._open[principal.name]:
                del self._open[principal.name]


def headers_too_large(most: int) -> HeadersTooLarge:
    """The error for a request whose line and headers have more bytes than allowed."""
    return HeadersTooLarge(
        f"The request's line and headers have more than {most} bytes.",
        remedy="Send fewer or shorter headers, and long values in the body.",
    )


def _head_size(scope: Scope) -> int:
    """Bytes of the request's line and headers, without its method and version."""
    line = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _counted(error: RayplaneError) -> RayplaneError:
    metrics.LIMITED.labels("bytes").inc()
    return error
