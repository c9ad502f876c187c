"""Paths of the gateway's API, with each name quoted as one part. Pure."""

from __future__ import annotations

from urllib.parse import quote

from rayplane import errors
from rayplane.nouns.noun_type import AnyNoun


def path_of(noun: AnyNoun, team: str, name: str | None = None) -> str:
    """The path of a noun's objects, or of one of them; ``team`` is ignored for a noun that belongs to no team."""
    base = f"/v1/teams/{quoted(team)}/{noun.plural}" if noun.team_scoped else f"/v1/{noun.plural}"
    return base if name is None else f"{base}/{quoted(name)}"


def quoted(part: str) -> str:
    """Quote a name as a part of a path; refuse '..', by which servers would resolve the path to another object."""
    if part in ("", ".", ".."):
        raise errors.InvalidInput(f"'{part}' is no name.", remedy="Write the name as 'list' shows it.")
    try:
        return quote(part, safe="")
    except UnicodeEncodeError as exc:
        raise errors.InvalidInput(f"{part!r} is no name.", remedy="Write the name as 'list' shows it.") from exc
