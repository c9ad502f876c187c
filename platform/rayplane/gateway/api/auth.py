"""Authenticate callers: check the bearer token of every request before any route sees it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rayplane.errors import RayplaneError, Unauthenticated
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.admission.tokens import REMEDY
from rayplane.gateway.api.problems import ERROR, respond
from rayplane.gateway.usecases.job import reporting_cluster
from rayplane.gateway.usecases.platform import Platform

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that need no token, for probes: they only tell whether the gateway works."""


class Authenticate:
    """ASGI middleware: puts the Principal into the scope, or answers 401 (to Ray's clients 403 for a wrong token)."""

    def __init__(self, app: ASGIApp, platform: Platform) -> None:
        self._app = app
        self._platform = platform

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            principal = await _identify(bearer(Headers(scope=scope)), self._platform)
        except RayplaneError as error:
            scope[ERROR] = error
            await refuse(respond(error, scope["path"]), scope, receive, send)
            return
        scope["rayplane.principal"] = principal
        await self._app(scope, receive, send)


def bearer(headers: Headers) -> str:
    """The token of ``Authorization`` or ``X-Ray-Authorization``; raises Unauthenticated if there is none."""
    value = headers.get("authorization") or headers.get("x-ray-authorization") or ""
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The request carries no token.", remedy=REMEDY)
    return token.strip()


async def refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response instead of the route's; also to a websocket's handshake."""
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(k, v) for k, v in response.raw_headers]
        await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": bytes(response.body)})
        return
    await response(scope, receive, send)


async def _identify(token: str, platform: Platform) -> Principal:
    """The principal of a token; raises Unauthenticated if the token is invalid, or its cluster was deleted."""
    principal = platform.signer.verify(token)
    if principal is None:
        raise platform.signer.refusal(token)
    if principal.cluster_uid is not None:  # only this asks the store, which may block
        await run_in_threadpool(reporting_cluster, principal, platform)
    return principal


async def _principal(connection: HTTPConnection) -> Principal:
    principal: Principal = connection.scope["rayplane.principal"]
    return principal


Caller = Annotated[Principal, Depends(_principal)]
"""The principal of the request."""
