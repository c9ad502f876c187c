"""How large a request's body may be: what is read as JSON is held whole, so nobody may send as much as they like."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayplane.errors import TooLarge
from rayplane.gateway.api.auth import refuse
from rayplane.gateway.api.problems import respond

MAX_BYTES = 16 * 2**20
"""The largest body but that of a package, which has a limit of its own."""


class Limit:
    """Pure ASGI middleware: answers 413 to a body that is too large, before or while it is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "packages" in scope["path"].split("/"):
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "0")
        if told.isdecimal() and int(told[:20]) > MAX_BYTES:
            await refuse(respond(_too_large(), scope["path"]), scope, receive, send)
            return
        read = 0

        async def counting() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BYTES:
                raise _too_large()
            return message

        await self._app(scope, counting, send)


def _too_large() -> TooLarge:
    return TooLarge(f"The request has more than {MAX_BYTES // 2**20} MiB.", remedy="Send it in parts.")
