"""Routes of the append-only records (lineage, the ledger of leases, the audit log) and of operations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from rayplane.gateway.api.answers import PlatformDep
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.api.parameters import Cursor, Limit, Node
from rayplane.gateway.usecases import lineage, records
from rayplane.nouns.base import Instant
from rayplane.nouns.cluster import Lease
from rayplane.nouns.events import Edge, Operation

router = APIRouter(prefix="/v1")

AuditedAction = Annotated[
    str | None, Query(max_length=63, description="Only this, such as apply, submit, rotate or refuse.")
]
Since = Annotated[Instant | None, Query(description="From when, with its zone; default: from the first entry.")]


class EdgeList(BaseModel):
    """Edges reachable from a node, the node's own first."""

    node: str
    direction: Literal["up", "down"]
    items: list[Edge]


class LeaseList(BaseModel):
    """A page of the ledger."""

    items: list[Lease]
    next_cursor: str | None = None


class AuditEntry(BaseModel):
    """Who did what to which object."""

    id: int | str
    time: datetime
    principal: str
    action: str
    kind: str
    team: str
    name: str
    detail: dict[str, Any] | None = None


class AuditList(BaseModel):
    """A page of the audit log, newest first."""

    items: list[AuditEntry]
    next_cursor: str | None = None


@router.get(
    "/teams/{team}/lineage", operation_id="get_lineage", summary="Edges reachable from a node", tags=["records"]
)
def edges(
    team: str,
    node: Node,
    caller: Caller,
    platform: PlatformDep,
    direction: Literal["up", "down"] = "up",
) -> EdgeList:
    """``up``: what the node came from; ``down``: what came from it."""
    reachable = lineage.reachable(team, node, direction, principal=caller, platform=platform)
    return EdgeList(node=node, direction=direction, items=reachable)


@router.get("/teams/{team}/leases", operation_id="list_leases", summary="The ledger", tags=["records"])
def leases(
    team: str,
    caller: Caller,
    platform: PlatformDep,
    open_only: Annotated[bool, Query(description="Only compute that is held now.")] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> LeaseList:
    """Compute that the team held or holds."""
    page = records.leases(team, open_only=open_only, limit=limit, cursor=cursor, principal=caller, platform=platform)
    return LeaseList(items=page.items, next_cursor=page.next_cursor)


@router.get("/teams/{team}/audit", operation_id="list_audit", summary="The audit log", tags=["records"])
def audit(
    team: str,
    caller: Caller,
    platform: PlatformDep,
    action: AuditedAction = None,
    since: Since = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> AuditList:
    """Who did what in the team, and what its own principals (a cluster's token) were refused."""
    page = records.audit(
        team, action=action, since=since, limit=limit, cursor=cursor, principal=caller, platform=platform
    )
    return AuditList(items=page.items, next_cursor=page.next_cursor)


@router.get("/audit", operation_id="list_whole_audit", summary="The audit log of all teams", tags=["records"])
def whole_audit(
    caller: Caller,
    platform: PlatformDep,
    team: Annotated[str | None, Query(description="Only what concerns this team.")] = None,
    action: AuditedAction = None,
    since: Since = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> AuditList:
    """Who did what, on the platform and in its teams, and who was refused what; for admins of the platform."""
    page = records.whole_audit(
        team=team, action=action, since=since, limit=limit, cursor=cursor, principal=caller, platform=platform
    )
    return AuditList(items=page.items, next_cursor=page.next_cursor)


@router.get("/operations/{id}", operation_id="get_operation", summary="Slow work", tags=["operations"])
def operation(id: str, caller: Caller, platform: PlatformDep) -> Operation:
    """An operation and whether it is done."""
    return records.operation(id, principal=caller, platform=platform)
