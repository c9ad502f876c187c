"""Answer every error, by one handler, as an RFC 9457 problem or as the plain text that a stock Ray client prints."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from rayplane import errors
from rayplane.text import printable

MEDIA_TYPE = "application/problem+json"
ERROR = "rayplane.error"
"""Key in a request's scope under which the error that it met is stored."""
_RAY_PATH = re.compile(r"^/(?!v1/)[^/]+/[^/]+/api(/|$)")
_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}
"""Status -> headers of the response: how to authenticate, after how many seconds to retry."""
_WRONG = ("unknown-token", "rotated-token")
"""Reasons for refusing a token for which Ray's clients are answered that it is wrong, not that it is missing."""
_NO_JSON = "There was an error parsing the body"
"""FastAPI's message for a body on which Python's JSON parser fails other than by a JSONDecodeError."""
_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """An RFC 9457 problem document; further members depend on its type."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    remedy: str | None = None
    instance: str | None = None


def install(app: FastAPI) -> None:
    """Answer every error of the app through ``respond``."""
    for cls in (errors.RayplaneError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(cls, _handle)


def respond(error: Exception, path: str) -> Response:
    """The response to an error of a request for ``path``: text for Ray's clients, a problem for all others."""
    if isinstance(error, HTTPException) and isinstance(error.__cause__, errors.RayplaneError):
        error = error.__cause__  # FastAPI wraps errors raised while reading a body
    if isinstance(error, HTTPException):
        problem, headers = _http_problem(error, path)
    else:
        known = as_rayplane_error(error)
        problem = known.to_problem(instance=path)
        headers = dict(_HEADERS.get(known.status, {}))
        if "retry_after" in known.fields:
            headers["Retry-After"] = str(known.fields["retry_after"])
        if _RAY_PATH.match(path):
            return _plain(str(known), _ray_status(known), headers)
    if _RAY_PATH.match(path):
        return _plain(problem["detail"], problem["status"], headers)
    return _Problem(problem, status_code=problem["status"], media_type=MEDIA_TYPE, headers=headers)


class _Problem(JSONResponse):
    """A problem as JSON. What it repeats of a request may be no valid text, such as half of a surrogate pair."""

    def render(self, content: Any) -> bytes:
        """Encode the body."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _plain(text: str, status: int, headers: Mapping[str, str]) -> PlainTextResponse:
    # Ray's command prints the text to a terminal as it is.
    return PlainTextResponse(printable(text, lines=True), status_code=status, headers=dict(headers))


def as_rayplane_error(error: Exception) -> errors.RayplaneError:
    """Translate an exception to a RayplaneError. An unexpected one is logged, and its text is not repeated."""
    if isinstance(error, errors.RayplaneError):
        return error
    if isinstance(error, RequestValidationError):
        lines = [_explain(e) for e in error.errors()]
        return errors.InvalidInput("; ".join(lines), errors=lines)
    _log.error("A request failed unexpectedly.", exc_info=error)
    return errors.RayplaneError(
        f"The gateway met an unexpected {type(error).__name__}.",
        remedy="Look into the gateway's log; the same request may be tried again.",
    )


async def _handle(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        error.headers = {**(error.headers or {}), "Allow": ", ".join(_methods(request))}
    request.scope[ERROR] = error.__cause__ if isinstance(error, HTTPException) else error
    return respond(error, request.url.path)


def _methods(request: Request) -> list[str]:
    """All methods of a path; Starlette's router names only those of the first route that matches."""
    routes = (route for router in request.app.state.routers for route in router.routes if isinstance(route, APIRoute))
    return sorted({m for route in routes if route.path_regex.match(request.url.path) for m in route.methods or ()})


def _http_problem(error: HTTPException, path: str) -> tuple[dict[str, Any], Mapping[str, str]]:
    title = HTTPStatus(error.status_code).phrase
    code = title.lower().replace(" ", "-")
    detail = {
        404: f"There is nothing at '{path}'.",
        405: f"'{path}' does not allow this method.",
    }.get(error.status_code, str(error.detail))
    if detail == _NO_JSON:
        detail = "The body can't be read as JSON: it is not UTF-8, is nested too deeply, or holds too long a number."
    problem = {
        "type": f"urn:rayplane:problem:{code}",
        "title": title,
        "status": error.status_code,
        "detail": detail,
        "remedy": "See /openapi.json for what the gateway answers.",
        "instance": path,
    }
    return problem, dict(error.headers or {})


def _ray_status(error: errors.RayplaneError) -> int:
    # Ray's clients read 401 as "no token" and 403 as "wrong token", and print the text of all other errors. So a wrong
    # token is a 403, a refusal by admission is not, and a wrong request is a 400, as from Ray's own server.
    if isinstance(error, errors.Refused):
        return 409
    if isinstance(error, errors.Unauthenticated) and error.fields.get("reason") in _WRONG:
        return 403
    if isinstance(error, errors.InvalidInput) and not isinstance(error, errors.TooLarge):
        return 400
    return error.status


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part != "body")
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where or 'body'}: {message}."
