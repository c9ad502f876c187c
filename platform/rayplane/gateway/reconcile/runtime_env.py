"""Build the runtime environment of jobs and services for Ray: the location of the code, and its variables."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.storage import layout
from rayplane.storage.root import Storage

_MARKER = ".rayplane-package"


def build(
    storage: Storage, team: str, package: str | None, *, env: Mapping[str, str], pip: Sequence[str] = ()
) -> dict[str, Any]:
    """``{"working_dir", "env_vars", "pip"}``, each only if it is not empty."""
    made: dict[str, Any] = {}
    if package is not None:
        made["working_dir"] = package_uri(storage, team, package)
    if env:
        made["env_vars"] = dict(env)
    if pip:
        made["pip"] = list(pip)
    return made


def package_uri(storage: Storage, team: str, package: str) -> str:
    """The URI from which Ray unpacks a code package (``sha256:<hex>``); raises NotFound if it is not there.

    Ray strips the top folder of a zip at such a URI if it is the only one (2.60, packaging.py): `jobs/train.py` would
    become `train.py` and `python -m jobs.train` fail. Such a package gets one more, empty, file at its top.
    """
    sha256 = package.removeprefix("sha256:")
    path = layout.package(team, sha256)
    wrapped = path.removesuffix(".zip") + "-ray.zip"
    if not storage.exists(wrapped):
        data = storage.read(path)
        if not has_single_top_folder(data):
            return _uri(storage, path)
        storage.write(wrapped, _with_marker(data))
    return _uri(storage, wrapped)


def has_single_top_folder(data: bytes) -> bool:
    """True if everything in a zip lies in one folder."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
    return all("/" in name for name in names) and len({name.split("/", 1)[0] for name in names}) == 1


def _with_marker(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(zipfile.ZipInfo(_MARKER), b"")
    return buffer.getvalue()


def _uri(storage: Storage, path: str) -> str:
    local = storage.local_path(path)
    return f"file://{local}" if local is not None else storage.uri(path)
