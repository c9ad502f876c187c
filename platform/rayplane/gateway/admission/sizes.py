"""Node sizes that a team may use. Pure: a team's spec and a size's name in, the size or Refused out."""

from __future__ import annotations

import difflib

from rayplane.errors import Refused
from rayplane.nouns.team import Size, TeamSpec


def size_of(team: TeamSpec, name: str, *, team_name: str, where: str = "cluster.size") -> Size:
    """The team's size of this name; raises Refused that names the nearest, or all. ``where``: the field in the spec."""
    size = team.sizes.get(name)
    if size is not None:
        return size
    near = difflib.get_close_matches(name, team.sizes, n=1, cutoff=0.6)
    remedy = f"Did you mean '{near[0]}'?" if near else f"It may use: {', '.join(sorted(team.sizes))}."
    raise Refused(f"{where}: team '{team_name}' has no size '{name}'.", remedy=remedy)
