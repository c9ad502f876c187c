"""Routes of code packages: content-addressed zips in the storage root."""

from __future__ import annotations

import io
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rayplane.errors import Malformed, NotFound
from rayplane.gateway.api.answers import PlatformDep
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.api.lanes import Lanes, run
from rayplane.gateway.api.limit import Body, allow_body
from rayplane.gateway.api.parameters import Sha256
from rayplane.gateway.usecases import packages
from rayplane.gateway.usecases.platform import Platform
from rayplane.storage.root import room

ZIP: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""The body of an upload, as OpenAPI describes it."""

PART = 2**18
"""Bytes that are written to the file at a time."""

router = APIRouter(prefix="/v1/teams/{team}/packages/{sha256}", tags=["packages"])


@router.head(
    "", operation_id="has_package", summary="Whether a package is there", status_code=200, response_class=Response
)
def has(team: str, sha256: Sha256, caller: Caller, platform: PlatformDep) -> Response:
    """200 if the package is there, else 404."""
    if not packages.has(team, sha256, principal=caller, platform=platform):
        raise NotFound(f"Team '{team}' has no package sha256:{sha256}.", remedy="Upload it with PUT.")
    return Response(status_code=200)


@router.put(
    "",
    operation_id="put_package",
    summary="Upload a package",
    status_code=201,
    response_class=Response,
    openapi_extra=ZIP,
)
async def put(team: str, sha256: Sha256, request: Request, caller: Caller, platform: PlatformDep) -> Response:
    """Keep a zip whose SHA-256 is the one in the URL; one already there is success."""
    lane = request.app.state.lanes.packages
    await run(lane, packages.check_upload, team, principal=caller, platform=platform)
    async with uploaded(request, platform) as file:
        await run(lane, packages.put, team, sha256, file, principal=caller, platform=platform)
    return Response(status_code=201)


@asynccontextmanager
async def uploaded(request: Request, platform: Platform) -> AsyncIterator[BinaryIO]:
    """The request's body as a file, for the duration of the block. The file has no name, so not even a crash leaves it.

    Raises TooLarge as soon as the body is known to exceed the limit of packages, Malformed if it ends too early,
    StorageFull if the disk has no room for it.
    """
    lanes: Lanes = request.app.state.lanes
    remedy = "Leave data out of the code folder (list it in .rayignore) and read it from a dataset."
    allow_body(request.scope, Body(platform.settings.max_package_bytes, "package", remedy, in_memory=False))
    file = await run(lanes.packages, _new_file, platform)
    try:
        part = bytearray()
        async for chunk in request.stream():
            part += chunk
            if len(part) >= PART:
                await run(lanes.packages, _append, file, part)
                part = bytearray()
        await run(lanes.packages, _append, file, part)
        file.seek(0)
        with io.BufferedReader(file) as reader:
            yield reader
    except ClientDisconnect as exc:
        raise Malformed("The upload ended before the whole package had arrived.", remedy="Upload it again.") from exc
    finally:
        file.close()


def _new_file(platform: Platform) -> io.FileIO:
    folder = platform.settings.home_paths.uploads
    with room(f"keep an upload in '{folder}'"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not in the system's folder for temporary files, which may be a tmpfs.
        return tempfile.TemporaryFile(dir=folder, buffering=0)


def _append(file: io.FileIO, part: bytearray) -> None:
    with room("keep an upload"):
        left = memoryview(part)
        while left:
            left = left[file.write(left) :]
