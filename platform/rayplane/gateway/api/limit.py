"""How much a request may hold, and how many of them a principal may have under way, whatever their route does."""

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
"""The largest body, but for those of the routes that allow another (``allow_body``): it is held whole, as JSON."""

MOST_KEPT = 128 * 2**20
"""The most bytes of bodies that are in memory at once, of all requests together."""

_BODY = "rayplane.body"


@dataclass(frozen=True)
class Body:
    """The body that a route takes."""

    most: int
    what: str = "request"
    remedy: str = "Send it in parts."
    kept: bool = True
    """Whether the route keeps it in memory."""

    def too_large(self) -> TooLarge:
        """The error of a body that has more."""
        most = f"{self.most // 2**20} MiB" if self.most >= 2**20 else f"{self.most} bytes"
        return TooLarge(f"The {self.what} has more than {most}.", remedy=self.remedy)


def allow_body(scope: Scope, body: Body) -> None:
    """Let the request of this scope have such a body. To be called by its route, before that reads any of it."""
    scope[_BODY] = body


class Limit:
    """Pure ASGI middleware: answers 431 to a head that is too long, and 413 to a body that is, by what it says it has
    before a byte of it is read, and by what it has. The limit is that of the route which reads it."""

    def __init__(self, app: ASGIApp, head_bytes: int) -> None:
        self._app = app
        self._head_bytes = head_bytes
        self._kept = 0

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
        read = kept = 0
        answering = False

        async def counting() -> Message:
            nonlocal read, kept
            body: Body = scope.get(_BODY) or Body(MAX_BYTES)
            if not answering and declared.isdecimal() and int(declared[:20]) > body.most:
                raise _counted(body.too_large())
            message = await receive()
            came = len(message.get("body", b""))
            if answering:  # what still comes is thrown away
                return message
            read += came
            if read > body.most:
                raise _counted(body.too_large())
            if body.kept:
                kept += came
                self._kept += came
                if self._kept > MOST_KEPT:
                    raise _counted(Unavailable("Too much is being sent at once.", remedy="Try again.", retry_after=1))
            return message

        async def noting(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._app(scope, counting, noting)
        finally:
            self._kept -= kept


class Share:
    """Pure ASGI middleware behind the token check: answers 429 where a principal has too many requests under way."""

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
    """The error of a request whose line and headers have more bytes than they may."""
    return HeadersTooLarge(
        f"The request's line and headers have more than {most} bytes.",
        remedy="Send fewer or shorter headers, and what is long in the body.",
    )


def _head_size(scope: Scope) -> int:
    """Bytes of the request's line and headers, but for its method and version."""
    line = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _counted(error: RayplaneError) -> RayplaneError:
    metrics.LIMITED.labels("bytes").inc()
    return error
