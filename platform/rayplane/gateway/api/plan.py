"""`POST /v1/plan`: what documents would change, what forbids it, what it may cost. Nothing is written."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.api.answers import Described, Here
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.usecases import plan as plans
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import NOUNS
from rayplane.nouns.base import Document, Text, parse
from rayplane.nouns.plan import Plan

router = APIRouter(prefix="/v1", tags=["plan"])

MOST = 500
"""Documents in one plan."""

PATIENCE = 5.0
"""Seconds for which a plan waits for those before it."""
LOOK = 0.05
"""Seconds between two looks whether it is its turn."""


class AnyDocument(Document):
    """A document as the schema says it: of one of the nouns. ``parse`` names the nearest kind to a wrong one."""

    kind: Literal[tuple(noun.kind for noun in NOUNS)]  # type: ignore[valid-type]


class PlanRequest(BaseModel):
    """Documents of any nouns, as `apply` takes them."""

    model_config = ConfigDict(extra="forbid")
    documents: list[Annotated[dict[str, Any], Described(AnyDocument)]] = Field(max_length=MOST)
    team: Text | None = None
    """For those that name none."""


@router.post("/plan", operation_id="plan", summary="Say what documents would change, forbid and cost")
async def plan(body: PlanRequest, caller: Caller, here: Here) -> Plan:
    """What applying the documents together would do. It answers 200 also where something is forbidden: `allowed`.

    A few plans are made at once, the others wait for some seconds and are then answered 503, with `Retry-After`.
    """
    until = time.monotonic() + PATIENCE
    while not here.preflights.begin_plan():  # without a thread: those are for what does not wait
        if time.monotonic() >= until:
            raise here.preflights.too_many_plans()
        await anyio.sleep(LOOK)
    try:
        # On a thread of its own, since a pre-flight may take long, and the others answer everything else.
        return await anyio.to_thread.run_sync(partial(_make, body, caller, here), limiter=anyio.CapacityLimiter(1))
    finally:
        here.preflights.end_plan()


def _make(body: PlanRequest, caller: Principal, here: Platform) -> Plan:
    documents = [parse(Document, value, f"documents[{place}]") for place, value in enumerate(body.documents)]
    return plans.plan(documents, team=body.team, principal=caller, platform=here)
