"""Code packages: content-addressed zips in the storage root."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rayplane.errors import NotFound, TooLarge
from rayplane.gateway.admission.roles import authorize
from rayplane.gateway.api.answers import PROBLEMS, Here
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.usecases import packages

MAX_BYTES = 256 * 2**20
"""The largest package that is taken: code, not data."""

router = APIRouter(prefix="/v1/teams/{team}/packages/{sha256}", tags=["packages"], responses=PROBLEMS)
Sha256 = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


@router.head("", operation_id="has_package", summary="Whether a package is there", status_code=200)
def has(team: str, sha256: Sha256, caller: Caller, here: Here) -> Response:
    """200 if the package is there, else 404."""
    if not packages.has(team, sha256, principal=caller, platform=here):
        raise NotFound(f"Team '{team}' has no package sha256:{sha256}.", remedy="Upload it with PUT.")
    return Response(status_code=200)


@router.put(
    "",
    operation_id="put_package",
    summary="Upload a package",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put(team: str, sha256: Sha256, request: Request, caller: Caller, here: Here) -> Response:
    """Keep a zip whose SHA-256 is the one in the URL; one already there is success."""
    authorize(caller, "write", team)  # before so much is read
    data = await body_of(request)
    await run_in_threadpool(packages.put, team, sha256, data, principal=caller, platform=here)
    return Response(status_code=201)


async def body_of(request: Request) -> bytes:
    """The request's body; raises TooLarge as soon as it is larger than a package may be."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise TooLarge(
                f"The package has more than {MAX_BYTES // 2**20} MiB.",
                remedy="Leave data out of the code folder (list it in .rayignore) and read it from a dataset.",
            )
    return bytes(data)
