"""Code packages: zips in the storage root, named by their SHA-256; and the names that stock Ray clients give them."""

from __future__ import annotations

import hashlib
import re
from typing import BinaryIO

from rayplane.errors import InvalidData, InvalidSpec, NotFound
from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.usecases import archive
from rayplane.gateway.usecases.platform import Platform
from rayplane.storage import layout

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_SHA256_BYTES = 64
_RAY_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}$|^_[A-Za-z0-9_.\-]{1,199}$")


def check_upload(team: str, *, principal: Principal, platform: Platform) -> None:
    """Raise Forbidden, NotFound or Conflict unless the principal may upload packages to the team.

    Call it before any of the package is read.
    """
    authorize(principal, "write", team)
    platform.team(team)


def put(team: str, sha256: str, file: BinaryIO, *, principal: Principal, platform: Platform) -> None:
    """Store a package, the whole content of ``file``; one that is stored already is success.

    Raises InvalidData if it does not have that hash, or is no zip that is safe to unpack; TooLarge if its files are.
    """
    check_upload(team, principal=principal, platform=platform)
    _check_sha256(sha256)
    digest = _digest(file)
    if digest != sha256:
        raise InvalidData(
            f"The package's SHA-256 is {digest}, not {sha256}.",
            remedy="Upload it again: it changed or was cut on the way.",
        )
    _keep(team, sha256, file, platform)


def has(team: str, sha256: str, *, principal: Principal, platform: Platform) -> bool:
    """True if the team has uploaded the package."""
    authorize(principal, "read", team)
    _check_sha256(sha256)
    return platform.storage.exists(layout.package(team, sha256))


def put_by_ray_name(team: str, ray_name: str, file: BinaryIO, *, principal: Principal, platform: Platform) -> str:
    """Store a package that a stock Ray client uploads under a name of its own; return its SHA-256 (hex).

    Raises as ``put`` does.
    """
    check_upload(team, principal=principal, platform=platform)
    alias = layout.package_alias(team, _checked_ray_name(ray_name))
    sha256 = _digest(file)
    _keep(team, sha256, file, platform)
    platform.storage.write(alias, sha256.encode())
    return sha256


def resolve_ray_name(team: str, ray_name: str, *, platform: Platform) -> str | None:
    """The SHA-256 (hex) of the package uploaded under this name; None if it was deleted or never uploaded."""
    try:
        data = platform.storage.read_from(layout.package_alias(team, _checked_ray_name(ray_name)), 0, _SHA256_BYTES + 1)
    except NotFound:
        return None
    sha256 = data.decode("ascii", errors="replace")
    if not _SHA256.fullmatch(sha256):  # no alias that this module wrote
        return None
    return sha256 if platform.storage.exists(layout.package(team, sha256)) else None


def check(team: str, package: str | None, where: str, platform: Platform) -> None:
    """Raise InvalidSpec unless ``package`` is None or the content address of a package that the team uploaded."""
    if package is None:
        return
    scheme, _, sha256 = package.partition(":")
    if scheme != "sha256" or not _SHA256.fullmatch(sha256):
        raise InvalidSpec(
            f"{where}: '{package}' is not a content address.",
            remedy="Leave it out: the client uploads the working folder.",
        )
    if not platform.storage.exists(layout.package(team, sha256)):
        raise InvalidSpec(
            f"{where}: team '{team}' has no package {package}.",
            remedy="Upload it first: 'rayplane job submit' and 'rayplane apply' do so with the working folder.",
        )


def _keep(team: str, sha256: str, file: BinaryIO, platform: Platform) -> None:
    archive.check(file)
    path = layout.package(team, sha256)
    if not platform.storage.exists(path):
        file.seek(0)
        platform.storage.write_from(path, file)


def _check_sha256(sha256: str) -> None:
    if not _SHA256.fullmatch(sha256):
        raise InvalidData(f"'{sha256[:80]}' is not a SHA-256.", remedy="Write it as 64 lower-case hexadecimal digits.")


def _checked_ray_name(name: str) -> str:
    if not _RAY_NAME.fullmatch(name):
        raise InvalidData(f"'{name[:80]}' is not a package's name.", remedy="Let Ray's own client name it.")
    return name


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed has no readinto
