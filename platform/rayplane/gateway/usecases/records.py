"""Read the append-only records (audit log, ledger of leases), and the state of operations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.store import Page
from rayplane.gateway.usecases import operations
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.team import require_recorded_team
from rayplane.nouns.cluster import Lease
from rayplane.nouns.events import Operation


def audit(
    team: str,
    *,
    action: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
    cursor: str | None = None,
    principal: Principal,
    platform: Platform,
) -> Page[dict[str, Any]]:
    """A page of the team's audit log, newest first; also of a deleted team.

    Raises Forbidden to other teams' principals, NotFound for a name that no team can have.
    """
    authorize(principal, "read", team)
    require_recorded_team(team)
    return platform.store.audit_log(team, action=action, since=since, limit=limit, cursor=cursor)


def whole_audit(
    *,
    team: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
    cursor: str | None = None,
    principal: Principal,
    platform: Platform,
) -> Page[dict[str, Any]]:
    """A page of the audit log of all teams and of the platform itself, newest first; for admins of the platform.

    Raises Forbidden for all other principals.
    """
    authorize(principal, "operate")
    return platform.store.audit_log(team, action=action, since=since, limit=limit, cursor=cursor)


def leases(
    team: str,
    *,
    open_only: bool = False,
    limit: int = 100,
    cursor: str | None = None,
    principal: Principal,
    platform: Platform,
) -> Page[Lease]:
    """A page of the team's ledger, in the order in which leases were opened; also of a deleted team.

    Raises Forbidden to other teams' principals, NotFound for a name that no team can have.
    """
    authorize(principal, "read", team)
    require_recorded_team(team)
    return platform.store.lease_page(team, open_only=open_only, limit=limit, cursor=cursor)


def operation(id: str, *, principal: Principal, platform: Platform) -> Operation:
    """An operation, with its state judged by its object as it is now; raises NotFound."""
    stored = platform.store.get_operation(id)
    authorize(principal, "read", stored.team)
    return operations.current(platform.store, stored)
