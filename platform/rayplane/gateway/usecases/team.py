"""Teams: what their specs must meet, and what forbids to delete one."""

from __future__ import annotations

import difflib

from rayplane import plugins
from rayplane.errors import Conflict, InvalidSpec
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import Object
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.team import TeamSpec


def check(spec: TeamSpec) -> None:
    """Raise InvalidSpec for a backend that is not known."""
    check_backend(spec.backend, "team.backend")


def check_backend(name: str, where: str) -> None:
    """Raise InvalidSpec, with the nearest right one, for a backend that is not known."""
    if name in plugins.TABLE["backends"]:
        return  # third parties' are looked for in every distribution that is installed, which takes a while
    known = plugins.names("backends")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
        raise InvalidSpec(f"{where}: '{name}' is unknown.", remedy=remedy)


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
