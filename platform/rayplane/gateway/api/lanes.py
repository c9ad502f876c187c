"""Limit the threads of each kind of slow work, so that none blocks another: backends, logs, packages, probes.

Requests that may ask a backend take at most 16 of the 40 threads on which FastAPI runs its routes; all other routes
have the rest. Logs, packages and probes have threads beside these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayplane.nouns import NOUNS

P = ParamSpec("P")
T = TypeVar("T")

ASK_BACKENDS = frozenset(
    {
        ("POST", "/v1/teams/{team}/jobs"),
        ("POST", "/{team}/{cluster}/api/jobs/"),
        ("PUT", "/v1/teams/{team}"),
        *(("PUT", f"/v1/teams/{{team}}/{noun.plural}/{{name}}") for noun in NOUNS if noun.team_scoped),
        ("GET", "/v1/teams/{team}/why"),
        *(("GET", f"/v1/teams/{{team}}/{noun.plural}/{{name}}/why") for noun in NOUNS if noun.team_scoped),
    }
)
"""(method, template) of the routes that may call a backend or Ray: pre-flight, environments, evidence.

Not plan, which has a limit and threads of its own (``api/plan.py``) and would occupy a turn while it waits for a slot.
"""

_TURN = "rayplane.turn"


class Lanes:
    """Limits of the threads that each kind of work may have at once."""

    def __init__(self) -> None:
        self.backends = CapacityLimiter(16)
        self.logs = CapacityLimiter(4)
        self.packages = CapacityLimiter(4)
        self.probe = CapacityLimiter(1)


async def run(lane: CapacityLimiter, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``act`` in a thread of the lane, and return its result.

    A caller that is cancelled leaves at once. The thread ends its work, and keeps its place in the lane until then.
    """
    place = object()
    await lane.acquire_on_behalf_of(place)

    async def work() -> T:
        try:
            return await to_thread.run_sync(lambda: act(*args, **kwargs), limiter=CapacityLimiter(1))
        finally:
            lane.release_on_behalf_of(place)

    working = asyncio.ensure_future(work())
    working.add_done_callback(_retrieve)
    return await asyncio.shield(working)


def _retrieve(work: asyncio.Future[Any]) -> None:
    """Take the outcome, so that asyncio does not log the error of a caller that has left."""
    if not work.cancelled():
        work.exception()


class Turns:
    """ASGI middleware: releases the turn of a request that may ask a backend once its response begins."""

    def __init__(self, app: ASGIApp, lanes: Lanes) -> None:
        self._app = app
        self._lane = lanes.backends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        turn = scope[_TURN] = _Turn(self._lane)

        async def giving_back(message: Message) -> None:
            turn.leave()
            await send(message)

        try:
            await self._app(scope, receive, giving_back)
        finally:
            turn.leave()


async def enter(scope: Scope) -> None:
    """Wait for a turn if the request's route may ask a backend. Call it after the request's body has been read."""
    route = getattr(scope.get("route"), "path", "")
    if (scope["method"], route) in ASK_BACKENDS:
        await scope[_TURN].enter()


class _Turn:
    def __init__(self, lane: CapacityLimiter) -> None:
        self._lane = lane
        self._taken = False

    async def enter(self) -> None:
        if not self._taken:
            await self._lane.acquire_on_behalf_of(self)
            self._taken = True

    def leave(self) -> None:
        if self._taken:
            self._taken = False
            self._lane.release_on_behalf_of(self)
