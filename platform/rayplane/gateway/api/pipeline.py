"""Routes of a pipeline's runs: start, list, get, stop."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from rayplane.gateway.api.answers import PlatformDep, object_model, once, page_model, shown
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.api.parameters import Cursor, IdempotencyKey, Limit
from rayplane.gateway.usecases import pipeline
from rayplane.nouns import RUN
from rayplane.nouns.base import Text

router = APIRouter(prefix="/v1/teams/{team}/pipelines/{name}/runs", tags=["pipelines"])
_Run = object_model(RUN)


class RunRequest(BaseModel):
    """Options of a run: parameters that override the pipeline's defaults; ``force`` runs every step anew."""

    model_config = ConfigDict(extra="forbid", strict=True)
    parameters: dict[Text, Text] = Field(default_factory=dict)
    force: bool = False


@router.post("", operation_id="start_run", summary="Ask for a run", status_code=202, responses={202: {"model": _Run}})
def start(
    request: Request,
    team: str,
    name: str,
    body: RunRequest,
    caller: Caller,
    platform: PlatformDep,
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Ask for a run of the pipeline as it is now."""

    def write() -> JSONResponse:
        run = pipeline.start_run(team, name, body.parameters, body.force, principal=caller, platform=platform)
        return shown(run, status=202, headers={"Location": f"{request.url.path}/{run.metadata.name}"})

    return once(key, request, body.model_dump(), write, principal=caller, platform=platform)


@router.get("", operation_id="list_runs", summary="List runs", responses={200: {"model": page_model(RUN, _Run)}})
def list_runs(
    team: str,
    name: str,
    caller: Caller,
    platform: PlatformDep,
    limit: Limit = 100,
    cursor: Cursor = None,
    newest_first: Annotated[bool, Query(description="Order of the page's items.")] = False,
) -> JSONResponse:
    """The pipeline's runs."""
    page = pipeline.list_runs(team, name, limit=limit, cursor=cursor, principal=caller, platform=platform)
    items = [run.plain().model_dump(mode="json") for run in page.items]
    return JSONResponse({"items": items[::-1] if newest_first else items, "next_cursor": page.next_cursor})


@router.get("/{run}", operation_id="get_run", summary="Get one run", responses={200: {"model": _Run}})
def get_run(team: str, name: str, run: str, caller: Caller, platform: PlatformDep) -> JSONResponse:
    """One run with its steps."""
    return shown(pipeline.get_run(team, name, run, principal=caller, platform=platform))


@router.post(
    "/{run}/stop",
    operation_id="stop_run",
    summary="Ask a run to stop",
    status_code=202,
    responses={202: {"model": _Run}},
)
def stop(team: str, name: str, run: str, caller: Caller, platform: PlatformDep) -> JSONResponse:
    """Ask a run to stop; its running steps are stopped, too."""
    return shown(pipeline.stop_run(team, name, run, principal=caller, platform=platform), status=202)
