"""Routes of a cluster's own verbs (suspend, resume, extend), and of the compute that a team's clusters held."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse

from rayplane.errors import InvalidInput
from rayplane.gateway.api.answers import PlatformDep, once, shown
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.api.noun import OBJECT_MODELS
from rayplane.gateway.api.parameters import IdempotencyKey
from rayplane.gateway.store.typed import Cluster
from rayplane.gateway.usecases import cluster
from rayplane.nouns.base import Seconds
from rayplane.nouns.cluster import ClusterUsage
from rayplane.nouns.events import Operation

router = APIRouter(prefix="/v1/teams/{team}", tags=["clusters"])
_WANTED: dict[int | str, dict[str, Any]] = {
    202: {"model": OBJECT_MODELS["Cluster"], "description": "Wanted; Location names the operation."}
}


class Extension(BaseModel):
    """The time from now for which a cluster is kept."""

    model_config = ConfigDict(extra="forbid")
    duration: Seconds
    """Written as in ``1h30m``, or in seconds."""


class UsageList(BaseModel):
    """Compute that each cluster of a team held."""

    items: list[ClusterUsage]


@router.post(
    "/clusters/{name}/suspend",
    operation_id="suspend_cluster",
    summary="Take a cluster's compute back",
    status_code=202,
    responses=_WANTED,
)
def suspend(
    request: Request, team: str, name: str, caller: Caller, platform: PlatformDep, key: IdempotencyKey = None
) -> JSONResponse:
    """The cluster holds nothing until a user resumes it. One that is suspended already stays so."""

    def act() -> tuple[Cluster, Operation]:
        return cluster.suspend(team, name, principal=caller, platform=platform)

    return once(key, request, None, lambda: _answer(act), principal=caller, platform=platform)


@router.post(
    "/clusters/{name}/resume",
    operation_id="resume_cluster",
    summary="Give a suspended cluster its compute again",
    status_code=202,
    responses=_WANTED,
)
def resume(
    request: Request, team: str, name: str, caller: Caller, platform: PlatformDep, key: IdempotencyKey = None
) -> JSONResponse:
    """It may have been suspended by a user or by the platform. Of one that runs, the idle time begins anew."""

    def act() -> tuple[Cluster, Operation]:
        return cluster.resume(team, name, principal=caller, platform=platform)

    return once(key, request, None, lambda: _answer(act), principal=caller, platform=platform)


@router.post(
    "/clusters/{name}/extend",
    operation_id="extend_cluster",
    summary="Put a cluster's end off",
    status_code=202,
    responses=_WANTED,
)
def extend(
    request: Request,
    team: str,
    name: str,
    body: Extension,
    caller: Caller,
    platform: PlatformDep,
    key: IdempotencyKey = None,
) -> JSONResponse:
    """It is neither suspended for idleness nor ended before ``duration`` from now; what is later stays."""

    def act() -> tuple[Cluster, Operation]:
        return cluster.extend(team, name, body.duration, principal=caller, platform=platform)

    return once(key, request, body.model_dump(), lambda: _answer(act), principal=caller, platform=platform)


@router.get("/usage", operation_id="get_usage", summary="What clusters held, in resource-seconds", tags=["records"])
def usage(
    team: str,
    caller: Caller,
    platform: PlatformDep,
    since: Annotated[datetime | None, Query(description="From when; default: the first lease.")] = None,
    until: Annotated[datetime | None, Query(description="Until when; default: now.")] = None,
) -> UsageList:
    """Core-seconds, GiB-seconds and GPU-seconds of each cluster, also of those that are gone."""
    for name, instant in (("since", since), ("until", until)):
        if instant is not None and instant.tzinfo is None:
            raise InvalidInput(f"{name} '{instant.isoformat()}' has no zone.", remedy="End it with Z for UTC.")
        try:
            _ = instant and instant.astimezone(UTC)
        except OverflowError as exc:
            raise InvalidInput(f"{name} '{instant}' is in no year of UTC.", remedy="Say a later one.") from exc
    return UsageList(items=cluster.usage(team, since=since, until=until, principal=caller, platform=platform))


def _answer(act: Callable[[], tuple[Cluster, Operation]]) -> JSONResponse:
    obj, operation = act()
    return shown(obj, status=202, headers={"Location": f"/v1/operations/{operation.id}"})
