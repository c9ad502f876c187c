"""Code packages: pack a folder, and upload what the team lacks."""

from __future__ import annotations

from pathlib import Path

from rayplane import errors
from rayplane.client import packaging
from rayplane.client.sdk.paths import quoted
from rayplane.client.sdk.transport import Transport
from rayplane.settings import find_home


class Packages:
    """Code packages."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def has(self, team: str, address: str) -> bool:
        """True if the team has a package of this content address."""
        try:
            self._transport.request("HEAD", self._path(team, address))
        except errors.NotFound:
            return False
        return True

    def pack(self, folder: Path | str) -> tuple[str, bytes]:
        """``(content address, zip)`` of a folder, always without the token in use and the home."""
        return packaging.pack(folder, without=(self._transport.token_path, find_home()))

    def upload(self, team: str, folder: Path | str) -> str:
        """Pack a folder, upload it if the team lacks it, and return its content address, ``sha256:<hex>``."""
        address, data = self.pack(folder)
        self.keep(team, address, data)
        return address

    def keep(self, team: str, address: str, data: bytes) -> None:
        """Upload a package made by ``pack``, unless the team has it already."""
        if not self.has(team, address):
            headers = {"Content-Type": "application/zip"}
            self._transport.request("PUT", self._path(team, address), content=data, headers=headers)

    def _path(self, team: str, address: str) -> str:
        return f"/v1/teams/{quoted(team)}/packages/{quoted(address.removeprefix('sha256:'))}"
