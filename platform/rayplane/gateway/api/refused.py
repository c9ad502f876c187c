"""Note each refused request (401, 403) for the audit log: caller, address, route, and the reason."""

from __future__ import annotations

import re
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayplane.errors import RayplaneError
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.api.problems import ERROR
from rayplane.gateway.usecases.refusals import Kind
from rayplane.telemetry import redact
from rayplane.text import printable

STATUSES = frozenset({401, 403})
MOST_CHARACTERS = 200

# A path segment that may be a token: a user's has 43 characters, a cluster's more. A package's digest is no token.
_TOKEN = re.compile(r"(?!(?:[0-9a-f]{40}|[0-9a-f]{64})(?:/|$))[A-Za-z0-9_\-.~+=]{40,}")


class Noting(Protocol):
    """A sink for refusals."""

    def note(self, kind: Kind, path: str, message: str) -> None:
        """Note a refused request."""
        ...


class Refused:
    """ASGI middleware around the token check: notes each refusal, without blocking."""

    def __init__(self, app: ASGIApp, refusals: Noting) -> None:
        self._app = app
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def noting(message: Message) -> None:
            status = _refusal(message, scope)
            if status is not None:
                self._refusals.note(kind_of(scope, status), shown(scope["path"]), _message(scope))
            await send(message)

        await self._app(scope, receive, noting)


def kind_of(scope: Scope, status: int) -> Kind:
    """The properties of the request by which it is counted together with others."""
    principal: Principal | None = scope.get("rayplane.principal")
    client, error = scope.get("client"), scope.get(ERROR)
    reason = "unknown"
    if isinstance(error, RayplaneError):
        reason = str(error.fields.get("reason") or error.code)
    return Kind(
        address=shown(str(client[0])) if client else "",
        principal=principal.name if principal is not None else "",
        team=(principal.team or "") if principal is not None else "",
        method=_method(scope),
        # Not an unmatched path itself: a caller could create any number of kinds.
        route=getattr(scope.get("route"), "path", "unmatched"),
        status=status,
        reason=reason,
    )


def shown(text: str) -> str:
    """A request's text made safe to store: without possible tokens or control characters, and not too long."""
    hidden = _TOKEN.sub("***", redact(text[: 4 * MOST_CHARACTERS]))
    plain = printable(hidden)
    return plain if len(plain) <= MOST_CHARACTERS else f"{plain[: MOST_CHARACTERS - 3]}..."


def _refusal(message: Message, scope: Scope) -> int | None:
    """The status of a response that refuses the request; None for any other message."""
    if message["type"] in ("http.response.start", "websocket.http.response.start"):
        status: int = message["status"]
        return status if status in STATUSES else None
    error = scope.get(ERROR)  # a websocket's handshake, to which the server can only send a close
    if message["type"] == "websocket.close" and isinstance(error, RayplaneError) and error.status in STATUSES:
        return error.status
    return None


def _method(scope: Scope) -> str:
    method = str(scope.get("method", "WEBSOCKET")).upper()
    known = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "WEBSOCKET")
    return method if method in known else "OTHER"


def _message(scope: Scope) -> str:
    error = scope.get(ERROR)
    return shown(error.detail) if isinstance(error, RayplaneError) else ""
