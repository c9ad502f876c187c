"""The token of a Ray that others run: a 0600 file of the home that names the address that the token is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rayplane.errors import InvalidSpec
from rayplane.gateway.ray_address import Address, parse
from rayplane.settings import read_secret


@dataclass(frozen=True)
class PlacedToken:
    """The token as far as it may be sent to one address, and what is wrong if it may not."""

    token: str | None = None
    problem: str = ""
    """The reason why there is none for that address: a sentence that tells neither the token nor another address."""


def token_for(address: Address, path: Path) -> PlacedToken:
    """Read the file's token for the address. One for another address, or for none that is named, is not given.

    Raises InvalidInput if others may read the file, or it can't be read.
    """
    if not path.exists():
        return PlacedToken(problem=f"There is no '{path}'.")
    lines = read_secret(path).split("\n")
    if len(lines) != 2:
        return PlacedToken(problem=f"'{path}' does not say for which address its token is.")
    try:
        meant = parse(lines[1].strip())
    except InvalidSpec:
        return PlacedToken(problem=f"The second line of '{path}' is no address.")
    if meant != address:
        return PlacedToken(problem=f"The token in '{path}' is for another address.")
    return PlacedToken(token=lines[0].strip())
