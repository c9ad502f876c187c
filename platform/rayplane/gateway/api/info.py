"""Routes that a client asks first: liveness, readiness, versions and URLs, and the OpenAPI document."""

from __future__ import annotations

import platform as _host
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse

from rayplane.gateway.admission.roles import authorize
from rayplane.gateway.api.answers import PlatformDep
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.api.lanes import run
from rayplane.gateway.store import Store
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import TEAM
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.environment import Environment
from rayplane.nouns.team import TeamSpec

API_VERSION = 1
"""The version in every path; it only grows with a change that an older client can't read."""

router = APIRouter()


class Health(BaseModel):
    """``ok``, or why not."""

    status: str


class Who(BaseModel):
    """The principal of the request."""

    name: str
    role: str
    team: str | None


class Info(BaseModel):
    """Versions, URLs and who asks."""

    rayplane: str
    api_version: int
    python: str
    gateway_url: str
    mlflow_url: str | None
    prometheus_url: str | None
    storage_root: str
    local_users: bool
    """True if each team has its own Unix user on the backend ``local``; else its jobs run as the platform's user."""
    environment: Environment | None
    """Environment of a cluster on the default backend; null if the backend only knows it once a cluster runs."""
    principal: Who


@router.get("/healthz", tags=["platform"], operation_id="healthz", summary="Alive")
async def healthz() -> Health:
    """Answers as long as the process does. On the event loop: it waits for no thread."""
    return Health(status="ok")


@router.get("/readyz", tags=["platform"], operation_id="readyz", summary="Ready")
async def readyz(request: Request, platform: PlatformDep) -> Health:
    """Answers 200 once the store can be read, and 503 while another process keeps it from being written.

    In a thread of its own: it waits for no other work.
    """
    await run(request.app.state.lanes.probe, _require_store, platform.store)
    return Health(status="ok")


def _require_store(store: Store) -> None:
    """Raise Unavailable unless the store can be read and written."""
    store.list(TEAM, "", limit=1)
    store.check_writable()


@router.get("/v1/info", tags=["platform"], operation_id="get_info", summary="Versions and URLs")
def info(caller: Caller, platform: PlatformDep) -> Info:
    """Versions, addresses and the caller's own role, for a client to check before it does anything."""
    authorize(caller, "read")
    return Info(
        rayplane=version("rayplane"),
        api_version=API_VERSION,
        python=_host.python_version(),
        gateway_url=platform.settings.url,
        mlflow_url=platform.settings.mlflow_url,
        prometheus_url=platform.settings.prometheus_url,
        storage_root=platform.settings.root_uri,
        local_users=platform.settings.local_users,
        environment=default_environment(platform),
        principal=Who(name=caller.name, role=caller.role, team=caller.team),
    )


@router.get(
    "/openapi.json",
    tags=["platform"],
    operation_id="get_openapi",
    summary="This document",
    responses={200: {"model": dict[str, Any]}},
)
def document(request: Request) -> JSONResponse:
    """Every request and response of the gateway, in OpenAPI 3.1. Every valid token may read it."""
    return JSONResponse(request.app.openapi())


def default_environment(platform: Platform) -> Environment | None:
    """The environment of a new cluster on the default backend; None if it is unknown before the cluster runs."""
    return platform.readers(TeamSpec().backend).environment(ClusterSpec())
