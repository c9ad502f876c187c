"""The token of a Ray cluster that others run: a 0600 file in the home, with the address that the token is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rayplane.errors import InvalidSpec
from rayplane.gateway.ray_address import Address, parse
from rayplane.settings import read_secret


@dataclass(frozen=True)
class PlacedToken:
    """The token, if it may be sent to an address; else the problem."""

    token: str | None = None
    problem: str = ""
    """The reason why there is no token for the address: a sentence that reveals neither the token nor its address."""


def token_for(address: Address, path: Path) -> PlacedToken:
    """Read the token for the address. A token for another address, or without one, is not returned.

    Raises InvalidInput if other users may read the file, or if it can't be read.
    """
    if not path.exists():
        return PlacedToken(problem=f"There is no '{path}'.")
    lines = read_secret(path).split("\n")
    if len(lines) != 2:
        return PlacedToken(problem=f"'{path}' does not say for which address its token is.")
    try:
        intended = parse(lines[1].strip())
    except InvalidSpec:
        return PlacedToken(problem=f"The second line of '{path}' is no address.")
    if intended != address:
        return PlacedToken(problem=f"The token in '{path}' is for another address.")
    return PlacedToken(token=lines[0].strip())
