"""`rayplane backup`: write a platform, running or stopped, to one file. Changes nothing in the platform."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO

from rayplane import local_users
from rayplane.client.backup import child, databases, inventory
from rayplane.client.backup.archive import Writer
from rayplane.client.backup.form import HOME, INVENTORY, ROOT, STORE, Contents, LeftOut, Member
from rayplane.client.backup.inventory import Leave
from rayplane.errors import InvalidData, InvalidInput, NotFound, Unavailable
from rayplane.nouns.base import utcnow
from rayplane.settings import GatewaySettings, Home
from rayplane.storage.root import room

Say = Callable[[str], None]

_ADMIN = "mlflow-admin*"
"""Files of the secrets' folder with the password of MLflow's admin."""
_ATTEMPTS = 5
"""Copies of MLflow's users until a backup gives up because the password changes each time."""

PROGRESS_INTERVAL = 5.0
"""Seconds between two progress lines about the storage root."""


@dataclass(frozen=True)
class Made:
    """A finished backup."""

    path: Path
    size: int
    contents: Contents


def backup(settings: GatewaySettings, to: Path, *, files: bool, secrets: bool, say: Say) -> Made:
    """Write a backup of the home to a file, or into a folder under a generated name; ``backup/__init__`` has the order.

    Raises NotFound without a platform, Conflict if the file exists, InvalidInput for a target that can't be written or
    is in the storage root, StorageFull, Unavailable if a database stays locked; then no file is left behind.
    """
    home = settings.home_paths
    target = _target(to)
    root = local_users.storage_folder(settings)
    _require_outside(target, root)
    if not home.path.is_dir():
        raise NotFound(f"There is no home '{home.path}'.", remedy="Name the platform's home by RAYPLANE_HOME.")
    with Writer(target) as writer, room(f"write '{target}'"), tempfile.TemporaryDirectory(
        prefix=f".{target.name}.", suffix=".partial", dir=target.parent
    ) as staging:  # fmt: skip
        contents = _fill(writer, Path(staging), settings, root, files=files, secrets=secrets, say=say)
        size = writer.finish(contents)
    return Made(target, size, contents.model_copy(update={"members": writer.members}))


def _fill(
    writer: Writer, staging: Path, settings: GatewaySettings, root: Path | None, *, files: bool, secrets: bool, say: Say
) -> Contents:
    home, revisions, left_out = settings.home_paths, dict[str, str | None](), list[LeftOut]()

    def copy_all(paths: Iterable[Path]) -> None:
        for path in paths:
            shown = str(path.relative_to(home.path))
            member = f"{HOME}{shown}"
            copied = staging / "database"
            try:
                revisions[member] = databases.copy(path, copied)
            except InvalidData:
                copied.unlink()
                if path.exists():
                    raise
                continue  # deleted since it was listed, as a team's online store is
            _keep_copied(writer, copied, member, shown, say)

    if settings.workflow_database_url is None:
        copy_all(_present(home.workflows))
    store = staging / "store"
    store.mkdir()
    part = child.snapshot("write", store, home.path)
    _keep_plain(writer, sorted(store.iterdir()), store, STORE)
    say(f"the store: {len(part.tables)} tables, {sum(table.rows for table in part.tables.values())} rows")
    # After the store, so that each team of the store that has a number of its own has it in the backup.
    _keep_plain(writer, _present(home.local_users), home.path, HOME)
    if secrets:
        _keep_plain(writer, _secrets(home), home.path, HOME, may_go=True)
    copy_all(_present(home.mlflow / "mlflow.db"))
    if secrets:  # a backup without them also leaves out MLflow's users, whose passwords are in auth.db
        _keep_users(writer, home, staging / "database", revisions, say)
    copy_all(sorted(home.feast.rglob("*.db")) if settings.feast_registry_url is None else [])
    count = total = 0
    if root is not None:

        def leave(path: str, reason: str) -> None:
            left_out.append(LeftOut(path=path, reason=reason))

        _keep_databases(writer, staging / "database", root, revisions, leave=leave, say=say)
        count, total = _keep_root(writer, staging / "inventory", root, files=files, leave=leave, say=say)
    return Contents(
        made_at=utcnow(),
        rayplane=version("rayplane"),
        mlflow=installed("mlflow"),
        home=str(home.path),
        storage_root=settings.root_uri,
        own_root=settings.root_uri == home.storage_uri,
        store=part,
        databases=revisions,
        secrets=secrets,
        files=files and root is not None,
        file_count=count,
        file_bytes=total,
        left_out=left_out,
        outside=_list_outside(settings, root),
    )


def _keep_copied(writer: Writer, copied: Path, member: str, shown: str, say: Say) -> None:
    """Put the copy of a database into the backup, and delete the copy."""
    with copied.open("rb") as file:
        say(f"{shown}: {writer.keep(member, file).size} bytes")
    copied.unlink()


def _keep_databases(
    writer: Writer, copied: Path, root: Path, revisions: dict[str, str | None], *, leave: Leave, say: Say
) -> None:
    """Copy the databases of teams; what can't be copied is left out, and all together wait PATIENCE for locks."""
    root = root.resolve()
    deadline = time.monotonic() + databases.PATIENCE
    for path, folder, name in inventory.databases(root, leave=leave):
        try:
            databases.copy_of_a_team(folder, name, root / path, copied, deadline=deadline)
            _keep_copied(writer, copied, f"{ROOT}{path}", path, say)
            revisions[f"{ROOT}{path}"] = None
        except (InvalidData, Unavailable) as exc:
            leave(path, exc.detail)
        finally:
            copied.unlink(missing_ok=True)


def _keep_root(writer: Writer, lines: Path, root: Path, *, files: bool, leave: Leave, say: Say) -> tuple[int, int]:
    count = total = 0
    began = time.monotonic()

    def take(member: str, file: BinaryIO, length: int) -> Member:
        return writer.add(member, file, length=length, packed=True)

    with lines.open("wb") as out:
        for file in inventory.list_files(root, take if files else None, leave=leave):
            out.write(file.model_dump_json(exclude_defaults=True).encode() + b"\n")
            count, total = count + 1, total + file.size
            if time.monotonic() - began > PROGRESS_INTERVAL:
                say(f"the storage root: {count} files, {total / 2**20:.0f} MiB so far")
                began = time.monotonic()
    with lines.open("rb") as read:
        writer.keep(INVENTORY, read)
    say(f"the storage root: {count} files, {total / 2**20:.1f} MiB {'copied' if files else 'listed'}")
    return count, total


def _keep_plain(writer: Writer, paths: Iterable[Path], base: Path, prefix: str, *, may_go: bool = False) -> None:
    """Copy files as they are. With ``may_go`` one that was deleted since it was listed counts as absent."""
    for path in paths:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            if not may_go:
                raise
            continue
        with file:
            writer.keep(f"{prefix}{path.relative_to(base)}", file)


def _keep_users(writer: Writer, home: Home, copied: Path, revisions: dict[str, str | None], say: Say) -> None:
    """Copy MLflow's users and the password of MLflow's admin, both as of before or both as of after a rotation.

    Copies again while the password's files change. Raises Unavailable if they change each time.
    """
    path, member = home.mlflow / "auth.db", f"{HOME}mlflow/auth.db"
    for _ in range(_ATTEMPTS):
        admin = _admin(home)
        revision = databases.copy(path, copied) if path.is_file() else None
        if _admin(home) == admin:
            break
        copied.unlink(missing_ok=True)
    else:
        raise Unavailable(
            f"The password of MLflow's admin changed during each of {_ATTEMPTS} copies of MLflow's users.",
            remedy="Make the backup again when the rotation has ended.",
        )
    for name, data in admin.items():
        writer.keep(f"{HOME}secrets/{name}", io.BytesIO(data))
    if copied.exists():
        revisions[member] = revision
        _keep_copied(writer, copied, member, "mlflow/auth.db", say)


def _admin(home: Home) -> dict[str, bytes]:
    """The password of MLflow's admin, and the next one during a rotation: content of each file by its name."""
    files = {}
    for path in sorted(home.secrets.glob(_ADMIN)):
        with contextlib.suppress(FileNotFoundError):  # a rotation has ended since it was listed
            files[path.name] = path.read_bytes()
    return files


def _present(*paths: Path) -> list[Path]:
    return [path for path in paths if path.is_file()]


def _secrets(home: Home) -> list[Path]:
    """The token and the files of the secrets' folder, except those of MLflow's admin, which go with MLflow's users.

    Files whose names begin with a dot are still being written.
    """
    apart = set(home.secrets.glob(_ADMIN))
    files = [path for path in sorted(home.secrets.rglob("*")) if not path.name.startswith(".") and path not in apart]
    return _present(home.token, *files)


def _list_outside(settings: GatewaySettings, root: Path | None) -> list[str]:
    notes = []
    for what, url in (("Workflows", settings.workflow_database_url), ("Feast's registry", settings.feast_registry_url)):
        if url is not None:
            where = url.split("@")[-1]
            notes.append(f"{what}: in a database of its own ({where}). Back it up by its own means just before this.")
    if root is None:
        notes.append(f"The storage root {settings.root_uri}: it is no folder of this host. Keep it by its own means.")
    return notes


def _target(to: Path) -> Path:
    to = to.expanduser().absolute()
    return to / f"rayplane-{utcnow():%Y%m%dT%H%M%SZ}.backup" if to.is_dir() else to


def _require_outside(target: Path, root: Path | None) -> None:
    if root is not None and target.parent.resolve().is_relative_to(root.resolve()):
        raise InvalidInput(f"'{target}' lies in the storage root that it is a backup of.", remedy="Write it elsewhere.")


def installed(name: str) -> str | None:
    """Version of a distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
