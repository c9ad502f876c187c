"""The worker's RunContext, fetched from the gateway once per process, and calls of the gateway. No I/O on import."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from rayplane.errors import InvalidInput, RayplaneError, Unauthenticated, Unavailable, from_problem
from rayplane.nouns.job import RunContext
from rayplane.storage.root import Storage, open_root

PATIENCE = 120.0
"""Seconds for which a call is retried while the gateway is down: longer than its restart takes."""

_lock = threading.Lock()
_current: RunContext | None = None
_overrides: list[RunContext] = []


def current() -> RunContext:
    """The run context of this process, fetched from the gateway once and cached.

    Outside a job (a notebook's task on the cluster) it is the cluster-wide context, whose ``job`` is None.
    Raises InvalidInput outside a cluster of the platform, Unavailable if the gateway stays down for two minutes.
    """
    global _current
    with _lock:
        if _overrides:
            return _overrides[-1]
        if _current is None:
            body = {"submission_id": os.environ.get("RAYPLANE_SUBMISSION_ID") or None}
            answer = call("POST", "/v1/run-context", body, patience=PATIENCE)
            _current = RunContext.model_validate(answer)
        return _current


def storage() -> Storage:
    """The storage root that this worker reads and writes."""
    return open_root(current().storage_root)


@contextmanager
def override(ctx: RunContext) -> Iterator[RunContext]:
    """Replace this process' context for the length of a block: for tests, and for tools outside a cluster."""
    with _lock:
        _overrides.append(ctx)
    try:
        yield ctx
    finally:
        with _lock:
            _overrides.remove(ctx)


def call(
    method: str, path: str, body: Any = None, *, url: str | None = None, patience: float = 0.0, timeout: float = 30.0
) -> Any:
    """Call the gateway as the cluster's own principal; returns the decoded answer (None if it is empty).

    Retries for ``patience`` seconds while the gateway is down or answers 503; every call made here is safe to repeat.
    Raises the error that the gateway's problem document describes, or Unavailable if it can't be reached.
    """
    base = (url or _required("RAYPLANE_GATEWAY_URL")).rstrip("/")
    deadline = time.monotonic() + patience
    pause = 0.2
    while True:
        try:
            return _once(method, base + path, body, timeout)
        except Unavailable:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def _once(method: str, url: str, body: Any, timeout: float) -> Any:
    token = _token()
    try:
        response = _sent(method, url, body, token, timeout)
        if response.status_code == 401 and (newer := _token()) != token:  # it was rotated between the two
            response = _sent(method, url, body, newer, timeout)
    except httpx.TransportError as exc:
        raise Unavailable(
            f"The gateway does not answer at {url}: {exc or type(exc).__name__}.",
            remedy="Look at it with 'rayplane status'; 'rayplane up' starts it again.",
        ) from exc
    if response.is_success:
        return response.json() if response.content else None
    raise _error(response)


def _sent(method: str, url: str, body: Any, token: str, timeout: float) -> httpx.Response:
    return httpx.request(method, url, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=timeout)


def _error(response: httpx.Response) -> RayplaneError:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if isinstance(problem, dict) and problem.get("detail"):
        return from_problem({"status": response.status_code, **problem})
    return from_problem(
        {"status": response.status_code, "detail": f"{response.request.url} answered {response.status_code}."}
    )


def _token() -> str:
    path = Path(_required("RAYPLANE_TOKEN_PATH"))
    try:
        token = path.read_text().strip()
    except OSError as exc:
        raise Unauthenticated(
            f"The token '{path}' can't be read: {exc.strerror}.", remedy="Run it again as a job."
        ) from exc
    if not token:
        raise Unauthenticated(
            f"The token file '{path}' is empty.", remedy="Create the cluster anew: its token is made then."
        )
    return token


def _required(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise InvalidInput(
            f"{variable} is not set: this process does not run in a cluster of rayplane.",
            remedy="Submit it with 'rayplane job submit', or set a context with rayplane.runtime.context.override().",
        )
    return value
