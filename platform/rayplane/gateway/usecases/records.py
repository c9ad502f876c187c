"""Answers from the append-only records, and operations."""

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
    """A page of the team's audit log, newest first, also of one that is gone.

    Raises NotFound for what can be no team.
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
    """A page of the audit log of all teams and of the platform itself, newest first; for the platform's admins.

    Raises Forbidden for all others.
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
    """A page of the team's ledger, in the order in which leases were opened, also of one that is gone.

    Raises NotFound for what can be no team.
    """
    authorize(principal, "read", team)
    require_recorded_team(team)
    return platform.store.lease_page(team, open_only=open_only, limit=limit, cursor=cursor)


def operation(id: str, *, principal: Principal, platform: Platform) -> Operation:
    """An operation, with the state that its object shows now."""
    kept = platform.store.get_operation(id)
    authorize(principal, "read", kept.team)
    return operations.current(platform.store, kept)
