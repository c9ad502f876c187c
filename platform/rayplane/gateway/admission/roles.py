"""Roles and the actions that they allow. Pure: a principal and an action in, nothing or Forbidden out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rayplane.errors import Forbidden

Action = Literal["read", "write", "admin", "report", "metrics", "operate"]

_ALLOWED: dict[str, frozenset[str]] = {
    "admin": frozenset({"read", "write", "admin", "metrics", "operate"}),
    "member": frozenset({"read", "write"}),
    "viewer": frozenset({"read"}),
    "cluster": frozenset({"report", "read"}),
    "metrics": frozenset({"metrics"}),
    "system": frozenset({"read", "write", "admin", "report", "metrics", "operate"}),
}

_OF_ALL_TEAMS = frozenset({"metrics", "operate"})
"""Actions on the platform as a whole: never allowed to a principal of one team, not even to the team's admin."""


@dataclass(frozen=True)
class Principal:
    """The caller of a request. ``team`` None: every team; a cluster's principal is bound to its team and cluster."""

    name: str
    role: Literal["admin", "member", "viewer", "cluster", "metrics", "system"]
    team: str | None = None
    cluster_uid: str | None = None


SYSTEM = Principal(name="rayplane", role="system")
"""The reconcilers' own principal."""


def authorize(principal: Principal, action: Action, team: str | None = None) -> None:
    """Raise Forbidden unless the principal's role allows the action on that team."""
    if action not in _ALLOWED[principal.role]:
        raise Forbidden(
            f"'{principal.name}' ({principal.role}) may not {action} {f'in team {team!r}' if team else 'here'}.",
            remedy="Ask an admin of the team for the role that may.",
        )
    if action in _OF_ALL_TEAMS and principal.team is not None:
        raise Forbidden(
            f"'{principal.name}' belongs to team '{principal.team}', and this concerns all teams.",
            remedy="Ask an admin of the platform.",
        )
    if team is not None and principal.team is not None and principal.team != team:
        raise Forbidden(f"'{principal.name}' belongs to team '{principal.team}', not '{team}'.")


def may(principal: Principal, action: Action, team: str | None = None) -> bool:
    """True if ``authorize`` allows the principal the action."""
    try:
        authorize(principal, action, team)
    except Forbidden:
        return False
    return True
