"""Routes of Ray's API at ``/{team}/{cluster}/api`` for stock Ray clients: answered from the store, never forwarded."""

from __future__ import annotations

import asyncio
import codecs
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, WebSocket
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute, compile_path
from starlette.websockets import WebSocketDisconnect

from rayplane.errors import Conflict, InvalidInput, NotFound, RayplaneError, Unsupported
from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.api import ray_jobs, waiting
from rayplane.gateway.api.answers import Described, PlatformDep
from rayplane.gateway.api.auth import Caller, refuse
from rayplane.gateway.api.followed import Followed
from rayplane.gateway.api.info import default_environment
from rayplane.gateway.api.lanes import Lanes, run
from rayplane.gateway.api.packages import ZIP, uploaded
from rayplane.gateway.api.problems import respond
from rayplane.gateway.api.ray_routes import ALLOW, REFUSED
from rayplane.gateway.store.changes import log_of
from rayplane.gateway.store.typed import Job
from rayplane.gateway.usecases import job, objects, packages
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import check_name
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.team import check_team_name

RAY_API_VERSION = "4"
"""The version of Ray's Jobs API that these routes implement (``ray.dashboard.modules.version.CURRENT_VERSION``)."""

LEAST_RAY = "2.52.0"
"""Ray version reported for a cluster whose version is unknown until it runs: the oldest that supports tokens.

Clients only check that the version is not too old.
"""

MOST_LISTED = 1000
"""Maximum jobs in a list, which has the newest."""

TAIL_INTERVAL = 0.5
"""Seconds after which a followed log is read again even if no change was reported."""

_KNOWN = tuple({template: compile_path(template)[0] for _, template in ALLOW}.values())
"""Forms of the paths of Ray's API that the gateway answers."""
_PREFIX = "/{team}/{cluster}"
_ANY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@cache
def router() -> APIRouter:
    """The allowed routes, each behind the check of its action, then routes that refuse all other paths."""
    routes = APIRouter(tags=["ray"])
    for (method, template), endpoint in _ENDPOINTS.items():
        routes.add_api_route(
            _PREFIX + template,
            endpoint,
            methods=[method],
            operation_id=f"ray_{endpoint.__name__.strip('_')}",
            dependencies=[Depends(_guard(method, template))],
            response_model=None,
            summary=_SUMMARIES[method, template],
            response_class=Response if "/packages/" in template else JSONResponse,
            openapi_extra=ZIP if endpoint is _put_package else None,
        )
    routes.routes.append(WebSocketRoute(_PREFIX + "/api/jobs/{job_or_submission_id}/logs/tail", _tail))
    routes.routes.append(WebSocketRoute(_PREFIX + "/api/{rest:path}", _refuse_socket))
    routes.routes.append(Route(_PREFIX + "/api/{rest:path}", _refuse, methods=_ANY))
    return routes


def _guard(method: str, template: str) -> Callable[..., Awaitable[None]]:
    action = ALLOW[method, template]

    async def guard(team: str, caller: Caller) -> None:
        authorize(caller, action, team)

    return guard


def _version(team: str, cluster: str, caller: Caller, platform: PlatformDep) -> dict[str, str]:
    # Answer for an unknown cluster too: Ray's client takes a 404 here for a Ray without the Jobs API. The answer to its
    # next request says what is missing.
    _require_names(team, cluster)
    try:
        obj = objects.get("Cluster", team, cluster, principal=caller, platform=platform)
        environment = obj.status.environment or default_environment(platform)
    except NotFound:
        environment = default_environment(platform)
    return {
        "version": RAY_API_VERSION,
        "ray_version": environment.ray if environment else LEAST_RAY,
        "ray_commit": "",
        "session_name": f"{team}-{cluster}",
    }


def _has_package(team: str, protocol: str, package_name: str, platform: PlatformDep) -> Response:
    _only_gcs(protocol)
    if packages.resolve_ray_name(team, package_name, platform=platform) is None:
        raise NotFound(f"Package {protocol}://{package_name} does not exist")
    return Response()


async def _put_package(
    team: str, cluster: str, protocol: str, package_name: str, request: Request, caller: Caller, platform: PlatformDep
) -> Response:
    _only_gcs(protocol)
    lane = request.app.state.lanes.packages
    await run(lane, packages.check_upload, team, principal=caller, platform=platform)
    await run(lane, objects.get, "Cluster", team, cluster, principal=caller, platform=platform)
    async with uploaded(request, platform) as file:
        await run(lane, packages.put_by_ray_name, team, package_name, file, principal=caller, platform=platform)
    return Response()


def _submit(
    team: str,
    cluster: str,
    body: Annotated[dict[str, Any], Described(ray_jobs.Submission), Body()],
    caller: Caller,
    platform: PlatformDep,
) -> dict[str, str]:
    spec = ray_jobs.to_spec(
        body, cluster=cluster, resolve=lambda name: packages.resolve_ray_name(team, name, platform=platform)
    )
    obj = job.submit(spec, team=team, name=None, principal=caller, platform=platform)
    return {"job_id": ray_jobs.public_id(obj), "submission_id": ray_jobs.public_id(obj)}


def _jobs(team: str, cluster: str, platform: PlatformDep) -> Response:
    """The cluster's newest jobs: Ray's API has no pages, and its clients print the list for people."""
    platform.store.require("Cluster", team, cluster)
    listed = [ray_jobs.details(job) for job in platform.store.newest_jobs(team, cluster, MOST_LISTED)]
    return Response(json.dumps(listed), media_type="application/json")


def _job(team: str, cluster: str, job_or_submission_id: str, platform: PlatformDep) -> Response:
    text = job.read_by_submission_id(team, cluster, job_or_submission_id, platform=platform)
    if text is None:
        raise _unknown(job_or_submission_id)
    return Response(json.dumps(ray_jobs.details(text)), media_type="application/json")


def _stop(team: str, cluster: str, job_or_submission_id: str, caller: Caller, platform: PlatformDep) -> dict[str, bool]:
    target = _find(team, cluster, job_or_submission_id, platform)
    running = target.status.phase not in TERMINAL
    job.stop(team, target.metadata.name, principal=caller, platform=platform)
    return {"stopped": running}


def _delete(
    team: str, cluster: str, job_or_submission_id: str, caller: Caller, platform: PlatformDep
) -> dict[str, bool]:
    target = _find(team, cluster, job_or_submission_id, platform)
    if target.status.phase not in TERMINAL:
        raise Conflict(
            f"Job '{job_or_submission_id}' is {ray_jobs.ray_status(target)}; only one that has ended can be deleted.",
            remedy=f"Stop it first: ray job stop {job_or_submission_id}",
        )
    objects.delete("Job", team, target.metadata.name, principal=caller, platform=platform)
    return {"deleted": True}


def _logs(
    team: str, cluster: str, job_or_submission_id: str, caller: Caller, platform: PlatformDep
) -> StreamingResponse:
    name = _find(team, cluster, job_or_submission_id, platform).metadata.name
    # Read before the response begins, so that a refusal sets its status.
    first, offset, _ = job.logs(team, name, 0, principal=caller, platform=platform)

    def chunks() -> Iterator[bytes]:
        data, following = first, offset
        while data:
            yield data
            data, following, _ = job.logs(team, name, following, principal=caller, platform=platform)

    return StreamingResponse(_as_logs(chunks()), media_type="application/json")


def _as_logs(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield ``{"logs": "..."}`` in parts: a log may be larger than the gateway's memory."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    yield '{"logs": "'
    for data in chunks:
        yield json.dumps(decoder.decode(data))[1:-1]
    yield json.dumps(decoder.decode(b"", final=True))[1:-1] + '"}'


async def _tail(websocket: WebSocket) -> None:
    team, cluster = websocket.path_params["team"], websocket.path_params["cluster"]
    submission_id = websocket.path_params["job_or_submission_id"]
    platform: Platform = websocket.app.state.platform
    lanes: Lanes = websocket.app.state.lanes
    caller: Principal = websocket.scope["rayplane.principal"]
    with ExitStack() as counted:
        try:
            authorize(caller, ALLOW["GET", "/api/jobs/{job_or_submission_id}/logs/tail"], team)
            counted.enter_context(websocket.app.state.followed.one(caller))
            followed_job = await run(lanes.logs, _find, team, cluster, submission_id, platform)
        except RayplaneError as error:
            await refuse(respond(error, websocket.url.path), websocket.scope, websocket.receive, websocket.send)
            return
        await websocket.accept()
        gone = asyncio.ensure_future(_until_gone(websocket))
        following = asyncio.ensure_future(_follow(websocket, followed_job, caller, platform))
        try:
            # Notice at once that a client leaves, so that another can follow in its stead.
            await asyncio.wait([gone, following], return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                await following
                if not gone.done():
                    await websocket.close(1000)
        except RayplaneError as error:
            await websocket.close(1011, str(error)[:120])
        except WebSocketDisconnect:
            return  # the client left while the gateway was sending
        finally:
            gone.cancel()
            following.cancel()


async def _follow(websocket: WebSocket, followed_job: Job, caller: Principal, platform: Platform) -> None:
    """Send the log so far, and what is appended to it, until it is complete."""
    lanes: Lanes = websocket.app.state.lanes
    followed: Followed = websocket.app.state.followed
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offset = 0
    uid, team, name = followed_job.metadata.uid, followed_job.team, followed_job.metadata.name
    async with waiting.listening(platform.store.changes, uid, log_of(uid), pause=followed.pause) as changed:
        while True:
            data, following, complete = await run(
                lanes.logs, job.logs, team, name, offset, principal=caller, platform=platform
            )
            text = decoder.decode(data)
            if text:
                await websocket.send_text(text)
            if following == offset and complete:
                return
            if len(data) < job.LOG_CHUNK:  # what is appended meanwhile is read at once
                await asyncio.sleep(followed.pause())
            if following == offset and not await changed(time.monotonic() + max(TAIL_INTERVAL, followed.pause())):
                await asyncio.sleep(TAIL_INTERVAL)
            offset = following


async def _until_gone(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _refuse(request: Request) -> Response:
    path = f"/api/{request.path_params['rest']}"
    if any(known.match(path) for known in _KNOWN):
        raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED)  # the problem's handler adds the methods
    return respond(_not_allowed(request.method, request.path_params["rest"]), request.url.path)


async def _refuse_socket(websocket: WebSocket) -> None:
    error = _not_allowed("websocket", websocket.path_params["rest"])
    await refuse(respond(error, websocket.url.path), websocket.scope, websocket.receive, websocket.send)


def _not_allowed(method: str, rest: str) -> Unsupported:
    reason = REFUSED.get((method, f"/api/{rest}"))
    return Unsupported(
        f"The gateway does not answer {method} /api/{rest}{': ' + reason if reason else ''}.",
        remedy="Of Ray's API it answers jobs, packages and version.",
    )


def _find(team: str, cluster: str, submission_id: str, platform: Platform) -> Job:
    target = job.find_by_submission_id(team, cluster, submission_id, platform=platform)
    if target is None:
        raise _unknown(submission_id)
    return target


def _unknown(submission_id: str) -> NotFound:
    return NotFound(f"Job {submission_id} does not exist")


def _require_names(team: str, cluster: str) -> None:
    try:
        check_team_name(check_name(team))
        check_name(cluster)
    except ValueError as exc:
        raise InvalidInput(f"{exc}.", remedy="Write the address as <gateway>/<team>/<cluster>.") from exc


def _only_gcs(protocol: str) -> None:
    if protocol != "gcs":
        raise InvalidInput(f"Packages of protocol '{protocol}' are not accepted.", remedy="Give a local folder.")


_SUMMARIES: dict[tuple[str, str], str] = {
    ("GET", "/api/version"): "Versions",
    ("GET", "/api/packages/{protocol}/{package_name}"): "Whether a package is there",
    ("PUT", "/api/packages/{protocol}/{package_name}"): "Upload a package",
    ("GET", "/api/jobs/"): "List the newest jobs",
    ("POST", "/api/jobs/"): "Submit a job",
    ("GET", "/api/jobs/{job_or_submission_id}"): "Get one job",
    ("DELETE", "/api/jobs/{job_or_submission_id}"): "Delete a job that has ended",
    ("POST", "/api/jobs/{job_or_submission_id}/stop"): "Ask a job to stop",
    ("GET", "/api/jobs/{job_or_submission_id}/logs"): "The kept log",
}
_ENDPOINTS: dict[tuple[str, str], Callable[..., Any]] = {
    ("GET", "/api/version"): _version,
    ("GET", "/api/packages/{protocol}/{package_name}"): _has_package,
    ("PUT", "/api/packages/{protocol}/{package_name}"): _put_package,
    ("GET", "/api/jobs/"): _jobs,
    ("POST", "/api/jobs/"): _submit,
    ("GET", "/api/jobs/{job_or_submission_id}"): _job,
    ("DELETE", "/api/jobs/{job_or_submission_id}"): _delete,
    ("POST", "/api/jobs/{job_or_submission_id}/stop"): _stop,
    ("GET", "/api/jobs/{job_or_submission_id}/logs"): _logs,
}
