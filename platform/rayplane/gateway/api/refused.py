"""Note each request that is refused (401, 403), for the audit log: who asked from where, for what, and why not."""

from __future__ import annotations

import re
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayplane.errors import RayplaneError
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.usecases.refusals import Kind
from rayplane.telemetry import redact
from rayplane.text import printable

STATUSES = frozenset({401, 403})
ERROR = "rayplane.error"
"""Where in a request's scope the error is kept that it met."""
MOST_CHARACTERS = 200

# A segment that may be a token: ours has 43 characters, a cluster's more. The digest of a package is none.
_TOKEN = re.compile(r"(?!(?:[0-9a-f]{40}|[0-9a-f]{64})(?:/|$))[A-Za-z0-9_\-.~+=]{40,}")


class Noting(Protocol):
    """Where refusals go."""

    def note(self, kind: Kind, path: str, message: str) -> None:
        """A request was refused."""
        ...


class Refused:
    """Pure ASGI middleware around the token check; it waits for nothing."""

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
    """What the request shares with others that are counted with it."""
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
        # Anyone could make as many kinds of an unmatched path as they like.
        route=getattr(scope.get("route"), "path", "unmatched"),
        status=status,
        reason=reason,
    )


def shown(text: str) -> str:
    """A text of a request as it may be kept: without what may be a token, without control characters, not too long."""
    hidden = _TOKEN.sub("***", redact(text[: 4 * MOST_CHARACTERS]))
    plain = printable(hidden)
    return plain if len(plain) <= MOST_CHARACTERS else f"{plain[: MOST_CHARACTERS - 3]}..."


def _refusal(message: Message, scope: Scope) -> int | None:
    """The status of an answer that refuses; None for any other message."""
    if message["type"] in ("http.response.start", "websocket.http.response.start"):
        status: int = message["status"]
        return status if status in STATUSES else None
    error = scope.get(ERROR)  # a handshake that can be closed alone
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
