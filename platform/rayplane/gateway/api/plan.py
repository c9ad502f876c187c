"""`POST /v1/plan`: what documents would change, what forbids it, what it may cost. Nothing is written."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from rayplane.gateway.api.answers import PROBLEMS, Described, Here
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.usecases import plan as plans
from rayplane.nouns.base import Document, Text, parse
from rayplane.nouns.plan import Plan

router = APIRouter(prefix="/v1", tags=["plan"], responses=PROBLEMS)

MOST = 500
"""Documents in one plan."""


class PlanRequest(BaseModel):
    """Documents of any nouns, as `apply` takes them."""

    model_config = ConfigDict(extra="forbid")
    documents: list[Annotated[dict[str, Any], Described(Document)]] = Field(max_length=MOST)
    team: Text | None = None
    """For those that name none."""


@router.post("/plan", operation_id="plan", summary="Say what documents would change, forbid and cost")
def plan(body: PlanRequest, caller: Caller, here: Here) -> Plan:
    """What applying the documents together would do. It answers 200 also where something is forbidden: `allowed`."""
    documents = [parse(Document, value, f"documents[{place}]") for place, value in enumerate(body.documents)]
    return plans.plan(documents, team=body.team, principal=caller, platform=here)
