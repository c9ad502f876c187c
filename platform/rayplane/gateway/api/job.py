"""Routes of a job's own verbs: submit, stop, and read its stored log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import JSONResponse, Response

from rayplane.gateway.api import waiting
from rayplane.gateway.api.answers import PlatformDep, document_model, metadata_of, once_prepared, shown
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.api.lanes import run
from rayplane.gateway.api.noun import OBJECT_MODELS
from rayplane.gateway.api.parameters import IdempotencyKey
from rayplane.gateway.store.changes import log_of
from rayplane.gateway.usecases import job
from rayplane.nouns import JOB
from rayplane.nouns.base import parse
from rayplane.nouns.job import JobSpec

MOST_WAIT = 20.0
"""Maximum seconds for which a request for more of a log is held."""

MOST_OFFSET = 2**53 - 1
"""Maximum byte offset: the greatest integer that JSON's numbers hold exactly; no file is as large."""

router = APIRouter(prefix="/v1/teams/{team}/jobs", tags=["jobs"])
_Submission = document_model(JOB, named=False)


def _submit(
    request: Request,
    team: str,
    body: Annotated[Any, Body()],
    caller: Caller,
    platform: PlatformDep,
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Ask for one run of an entrypoint. The name is made if the metadata has none."""
    document = body.model_dump()

    def prepare() -> Callable[[], JSONResponse]:
        name, labels = _asked(document["metadata"], team)
        spec = parse(JobSpec, document["spec"], "job.spec")
        submit_or_find = job.prepare(spec, team=team, name=name, labels=labels, principal=caller, platform=platform)

        def write() -> JSONResponse:
            obj, change = submit_or_find()
            if change == "created":
                platform.wake()
            return shown(obj, status=202, headers={"Location": f"/v1/teams/{team}/jobs/{obj.metadata.name}"})

        return write

    return once_prepared(key, request, document, prepare, principal=caller, platform=platform)


def _asked(metadata: dict[str, Any], team: str) -> tuple[str | None, dict[str, str] | None]:
    """(name, labels) of a submission, each None if absent; raises InvalidInput or InvalidSpec as a PUT does."""
    named = metadata.get("name") is not None
    fields = metadata if named else {key: value for key, value in metadata.items() if key != "name"}
    parsed = metadata_of(fields, JOB, team, metadata["name"] if named else "unnamed")
    return parsed.name if named else None, parsed.labels if "labels" in metadata else None


_submit.__annotations__["body"] = Annotated[_Submission, Body()]
router.add_api_route(
    "",
    _submit,
    methods=["POST"],
    operation_id="submit_job",
    summary="Submit a job",
    status_code=202,
    responses={202: {"model": OBJECT_MODELS["Job"], "description": "Wanted; Location names the job."}},
)


@router.post(
    "/{name}/stop",
    operation_id="stop_job",
    summary="Ask a job to stop",
    status_code=202,
    responses={202: {"model": OBJECT_MODELS["Job"]}},
)
def stop(team: str, name: str, caller: Caller, platform: PlatformDep) -> JSONResponse:
    """Ask a job to stop; one that has ended stays as it is."""
    return shown(job.stop(team, name, principal=caller, platform=platform), status=202)


@router.get(
    "/{name}/logs",
    operation_id="get_job_logs",
    summary="The kept log",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def logs(
    request: Request,
    team: str,
    name: str,
    caller: Caller,
    platform: PlatformDep,
    offset: Annotated[int, Query(ge=0, le=MOST_OFFSET, description="Byte to start from.")] = 0,
    wait: Annotated[float, Query(ge=0, le=MOST_WAIT, description="Seconds to wait for more where there is none.")] = 0,
) -> Response:
    """The log from a byte offset: X-Next-Offset says where to go on, X-Log-Complete whether there will be no more."""
    read = partial(job.logs, team, name, offset, principal=caller, platform=platform)
    state = request.app.state
    data, following, complete = await run(state.lanes.logs, read)
    if wait and not data and not complete:
        uid = (await run(state.lanes.logs, platform.store.get, "Job", team, name)).metadata.uid
        with state.followed.one(caller):
            async with waiting.listening(
                platform.store.changes, uid, log_of(uid), pause=state.followed.pause
            ) as changed:
                data, following, complete = await run(state.lanes.logs, read)  # it may have grown before the listener
                deadline = time.monotonic() + wait
                while not data and not complete and await changed(deadline):
                    await asyncio.sleep(max(0.0, min(state.followed.pause(), deadline - time.monotonic())))
                    data, following, complete = await run(state.lanes.logs, read)
    headers = {"X-Next-Offset": str(following), "X-Log-Complete": "true" if complete else "false"}
    return Response(data, media_type="text/plain; charset=utf-8", headers=headers)
