"""Routes for workers: report events, and exchange a submission id for a RunContext."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from rayplane.errors import InvalidInput
from rayplane.gateway import metrics
from rayplane.gateway.api.answers import PlatformDep
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.api.parameters import OfTeam
from rayplane.gateway.usecases import events, job
from rayplane.nouns.base import Text
from rayplane.nouns.events import EventBatch
from rayplane.nouns.job import RunContext

router = APIRouter(prefix="/v1", tags=["workers"])


class RunContextRequest(BaseModel):
    """Ray's id of the attempt (``<job uid>-<n>``); null asks for the cluster's own context."""

    model_config = ConfigDict(extra="ignore")
    submission_id: Text | None = None


class Ingested(BaseModel):
    """The number of events received, and of those that were new."""

    received: int
    new: int


@router.post("/run-context", operation_id="get_run_context", summary="What a worker is told")
def run_context(body: RunContextRequest, caller: Caller, platform: PlatformDep) -> RunContext:
    """The same answer every time."""
    return job.run_context(body.submission_id, principal=caller, platform=platform)


@router.post("/events", operation_id="post_events", summary="Report what happened", status_code=202)
def ingest(
    batch: EventBatch,
    caller: Caller,
    platform: PlatformDep,
    team: OfTeam = None,
) -> Ingested:
    """Record events and apply what they tell; a repeated delivery changes nothing."""
    of_team = caller.team or team
    if of_team is None:
        raise InvalidInput("These events are of no team.", remedy="Send a cluster's token, or say ?team=<team>.")
    new = events.ingest(of_team, batch.events, principal=caller, platform=platform)
    metrics.EVENTS.labels(of_team).inc(new)
    return Ingested(received=len(batch.events), new=new)
