"""The route `POST /v1/plan`: changes, refusals and cost of documents. It writes nothing."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.api.answers import Described, PlatformDep
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.usecases import plan as plans
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import NOUNS
from rayplane.nouns.base import Document, Text, parse
from rayplane.nouns.plan import Plan

router = APIRouter(prefix="/v1", tags=["plan"])

MOST = 500
"""Maximum documents in one plan."""

PATIENCE = 5.0
"""Seconds for which a plan waits for a free slot."""
LOOK = 0.05
"""Seconds between two tries to take a slot."""


class AnyDocument(Document):
    """A document of one of the nouns, for the schema. ``parse`` validates it, and names the nearest kind."""

    kind: Literal[tuple(noun.kind for noun in NOUNS)]  # type: ignore[valid-type]


class PlanRequest(BaseModel):
    """Documents of any nouns, as `apply` takes them."""

    model_config = ConfigDict(extra="forbid")
    documents: list[Annotated[dict[str, Any], Described(AnyDocument)]] = Field(max_length=MOST)
    team: Text | None = None
    """The team of documents that name none."""


@router.post("/plan", operation_id="plan", summary="Say what documents would change, forbid and cost")
async def plan(body: PlanRequest, caller: Caller, platform: PlatformDep) -> Plan:
    """Plan the application of the documents together. It answers 200 also where something is forbidden: `allowed`.

    A few plans are made at once, the others wait for some seconds and are then answered 503, with `Retry-After`.
    """
    until = time.monotonic() + PATIENCE
    while not platform.preflights.begin_plan():  # on the event loop: threads are for requests that do not wait
        if time.monotonic() >= until:
            raise platform.preflights.too_many_plans()
        await anyio.sleep(LOOK)
    try:
        # On a thread of its own: a pre-flight may take long, and the shared threads answer all other requests.
        return await anyio.to_thread.run_sync(partial(_make, body, caller, platform), limiter=anyio.CapacityLimiter(1))
    finally:
        platform.preflights.end_plan()


def _make(body: PlanRequest, caller: Principal, platform: Platform) -> Plan:
    documents = [parse(Document, value, f"documents[{index}]") for index, value in enumerate(body.documents)]
    return plans.plan(documents, team=body.team, principal=caller, platform=platform)
