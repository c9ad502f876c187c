"""Teams: what their specs must meet, and what forbids to delete one."""

from __future__ import annotations

import difflib

from rayplane import plugins
from rayplane.errors import Conflict, Forbidden, InvalidSpec, NotFound, Refused
from rayplane.gateway.admission import grants
from rayplane.gateway.admission.env import check_names
from rayplane.gateway.admission.roles import Principal, may
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.nouns.base import Object, check_name
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.team import TeamSpec, check_team_name


def check(spec: TeamSpec, platform: Platform) -> None:
    """Raise InvalidSpec for a backend that is not known or a member's name that can't be read, Refused for a backend
    that is not offered here."""
    check_names({str(place): name for place, name in enumerate(spec.members)}, "team.members")
    check_backend(spec.backend, "team.backend", platform)


def check_grant(name: str, before: Object | None, spec: TeamSpec, principal: Principal) -> None:
    """Raise Forbidden if a team's own admin makes the team, or gives it more than the platform gave it.

    To be called in the transaction that writes the team.
    """
    if may(principal, "operate"):
        return
    remedy = "Ask an admin of the platform."
    if before is None:
        raise Forbidden(f"Team '{name}' is not there, and '{principal.name}' may not make it.", remedy=remedy)
    more = grants.raised(team_spec(before), spec)
    if more:
        raise Forbidden(
            f"'{principal.name}' may not give team '{name}' more than the platform did: {', '.join(more)}.",
            remedy=remedy,
        )


def check_backend(name: str, where: str, platform: Platform) -> None:
    """Raise InvalidSpec, with the nearest right one, for a backend that is not known; Refused if it is not offered.

    Where the gateway is alone in a container, the backend ``local`` would run teams' code beside its secrets.
    """
    # Third parties' are looked for in every distribution that is installed, which takes a while.
    if name not in plugins.TABLE["backends"] and name not in (known := plugins.names("backends")):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
        raise InvalidSpec(f"{where}: '{name}' is unknown.", remedy=remedy)
    offered = platform.settings.backends
    if offered is not None and name not in offered:
        raise Refused(f"{where}: '{name}' is not offered here.", remedy=f"Write one of: {', '.join(offered)}.")


def require_team_name(name: str) -> None:
    """Raise NotFound for a name that no team can have: records are kept of teams that are gone, not of such."""
    try:
        check_team_name(check_name(name))
    except ValueError as exc:
        raise NotFound(f"There is no such team: {exc}.", remedy="'rayplane team list' says which there are.") from exc


def check_deletion(team: Object, platform: Platform) -> None:
    """Raise Conflict while the team has clusters, services, or work under way: those go first."""
    name = team.metadata.name
    kept = [
        f"{obj.kind} '{obj.metadata.name}'"
        for kind in ("Service", "Cluster", "PipelineRun", "Job")
        for obj in platform.store.each(kind, name)
        if kind in ("Service", "Cluster") or obj.status.get("phase") not in TERMINAL
    ]
    if kept:
        shown = ", ".join(kept[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
        raise Conflict(f"Team '{name}' still has {shown}.", remedy="Delete or stop them first.")
