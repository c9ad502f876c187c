"""The FastAPI app: every route behind the token check, every error a problem, every request counted."""

from __future__ import annotations

import time
from functools import cache
from importlib.metadata import version
from typing import Protocol

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayplane.gateway import metrics
from rayplane.gateway.api import (
    cluster,
    dataset,
    events,
    info,
    job,
    noun,
    openapi,
    packages,
    pipeline,
    plan,
    problems,
    prometheus,
    ray_proxy,
    records,
)
from rayplane.gateway.api.auth import Authenticate
from rayplane.gateway.api.followed import Followed
from rayplane.gateway.api.lanes import Lanes, Turns
from rayplane.gateway.api.limit import Limit, Share
from rayplane.gateway.api.refused import Noting, Refused
from rayplane.gateway.usecases.platform import Platform


class Wakeable(Protocol):
    """The reconcilers' loop, as far as the app uses it."""

    def wake(self) -> None:
        """Reconcile the objects now."""
        ...


def create_app(platform: Platform, *, loop: Wakeable | None = None, refusals: Noting | None = None) -> FastAPI:
    """Create the app of a platform. ``loop`` is stored on ``app.state`` for the composition root; routes never use it.

    ``refusals`` notes each request that is answered with 401 or 403.
    """
    app = FastAPI(
        title="rayplane",
        version=version("rayplane"),
        summary="Teams, clusters, jobs, pipelines, datasets, features, models and services on Ray.",
        openapi_url=None,  # info.py has a route for it, which is in the document too
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    settings = platform.settings
    app.state.platform, app.state.loop = platform, loop
    app.state.lanes, app.state.followed = Lanes(), Followed(settings.max_followed_logs)
    problems.install(app)
    app.state.routers = _routers()
    app.router.routes.extend(_routes())
    # The middleware that is added last sees a request first.
    app.add_middleware(Turns, lanes=app.state.lanes)
    app.add_middleware(Share, most=settings.max_requests)
    app.add_middleware(Authenticate, platform=platform)
    if refusals is not None:
        app.add_middleware(Refused, refusals=refusals)
    app.add_middleware(Limit, head_bytes=settings.max_header_bytes)
    app.add_middleware(Measure)
    document = cache(lambda: openapi.document(app, openapi.offered(settings.backends)))
    app.openapi = document  # type: ignore[method-assign]
    return app


@cache
def _routers() -> tuple[APIRouter, ...]:
    # A noun's own routes come before the common ones. Ray's come last: their two leading parameters match any path.
    own = (
        info.router,
        cluster.router,
        job.router,
        pipeline.router,
        dataset.router,
        packages.router,
        events.router,
        records.router,
        plan.router,
    )
    return (*own, prometheus.router, noun.router(), ray_proxy.router())


@cache
def _routes() -> list[BaseRoute]:
    """All routes, for they know no platform: put together once, since that takes longer than all else of an app."""
    made = APIRouter()
    for router in _routers():
        made.include_router(router)
    return made.routes


class Measure:
    """ASGI middleware: counts and times every HTTP request by its route's template."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            # An unmatched path is no label: a caller could create any number of time series.
            route = getattr(scope.get("route"), "path", "unmatched")
            metrics.REQUESTS.labels(scope["method"], route, str(status)).inc()
            metrics.REQUEST_SECONDS.labels(scope["method"], route).observe(time.perf_counter() - started)
