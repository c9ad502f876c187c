"""`rayplane restore`: restore a backup into an empty home, all or nothing; or only verify and compare it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

from rayplane import processes
from rayplane.client.backup import child, inventory
from rayplane.client.backup.archive import Reader, damaged, reading
from rayplane.client.backup.form import (
    HOME,
    INVENTORY,
    ROOT,
    SNAPSHOT,
    STORE,
    Contents,
    Member,
    StoredFile,
    require_readable,
)
from rayplane.client.backup.inventory import Difference
from rayplane.client.backup.make import installed
from rayplane.client.backup.moved import Move
from rayplane.errors import Conflict, InvalidInput, StorageFull
from rayplane.settings import GatewaySettings, Home, write_secret
from rayplane.storage.root import open_root, room
from rayplane.text import sql_name

Say = Callable[[str], None]

_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///(?:file:)?([^?]+)")
"""SQLAlchemy's URL of a SQLite file."""
_SPARE = 64 * 2**20
"""Bytes that must stay free on the disk after a restore."""


@dataclass(frozen=True)
class Restored:
    """Result of a restore or a check."""

    contents: Contents
    home: Path
    storage_root: str
    difference: Difference
    notes: list[str]
    """Sentences that tell the user what else to know or do."""


def check(path: Path, settings: GatewaySettings, *, say: Say) -> Restored:
    """Verify every file of a backup and compare its inventory with the storage root; change nothing.

    Raises NotFound, InvalidData if the backup is damaged, Unsupported if a newer rayplane or MLflow wrote it.
    """
    with reading(path) as reader:
        contents = reader.contents
        require_readable(contents, mlflow=installed("mlflow"))
        files = _verified(reader, path, say)
        uri = settings.root_uri
        return Restored(contents, settings.home, uri, _difference(files, uri, say), list(contents.outside))


def restore(path: Path, settings: GatewaySettings, *, incomplete: bool, say: Say) -> Restored:
    """Restore a backup into an empty home.

    The storage root is that of the settings, if they name one; else the home's own, if the backup has the files of a
    home's own root; else the root of the platform that was backed up. Raises NotFound, InvalidData (damaged),
    Unsupported (newer), Conflict (the home or the database is not empty, the backed-up platform still runs on this
    host, the root has other files), InvalidInput (the home is a link or a mount point, or another part of the platform
    lies in it) or StorageFull; then the home is not made.
    """
    home = Home(settings.home.absolute())
    with reading(path) as reader:
        contents = reader.contents
        require_readable(contents, mlflow=installed("mlflow"))
        _require_empty(home)
        _require_stopped(contents)
        files = _verified(reader, path, say)
        uri = _root_of(contents, settings, home)
        _require_no_part_inside(home, settings, uri)
        own = uri == home.storage_uri
        difference = Difference(checked=len(files)) if own and contents.files else _difference(files, uri, say)
        _require_usable(difference, contents, uri, incomplete=incomplete)
        _require_room(reader, home, files)
        staging = home.path.with_name(f".{home.path.name}.{os.getpid()}.restoring")
        try:
            with room(f"restore to '{home.path}'"):
                staging.mkdir(parents=True, mode=0o700)
                notes = _write_files(reader, files, Home(staging), uri, own=own)
                _fill_store(reader, Home(staging), uri)
                staging.rename(home.path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # exists only if the restore failed
    if contents.files and not own:
        difference = _difference(files, uri, say)
    return Restored(contents, home.path, uri, difference, [*notes, *contents.outside])


def _require_empty(home: Home) -> None:
    what = "a symbolic link" if home.path.is_symlink() else "a mount point" if os.path.ismount(home.path) else None
    if what is not None:
        raise InvalidInput(
            f"The home '{home.path}' is {what}, which a restored home can't replace.",
            remedy="Name by --home the folder that it leads to."
            if home.path.is_symlink()
            else "Name by --home a folder in it that is not there yet.",
        )
    if os.path.lexists(home.path) and (not home.path.is_dir() or any(home.path.iterdir())):
        raise Conflict(
            f"The home '{home.path}' is not empty.",
            remedy="Name another by --home: a restore never writes over anything. To compare with it, say --check.",
        )


def _require_no_part_inside(home: Home, settings: GatewaySettings, uri: str) -> None:
    """Raise InvalidInput if a part of the platform that is not at its default place lies in the home.

    The home gets its name once it is complete, and what is written to its place before that would make it not empty.
    """
    root = open_root(uri).local_path("")
    if root is not None and uri != home.storage_uri and _inside(Path(root), home):
        raise InvalidInput(
            f"The storage root '{uri}' lies in the home '{home.path}', which is yet to be made.",
            remedy=f"Name by --storage-root a place outside of it, or the default one: {home.storage_uri}",
        )
    for name, url, default in (
        ("RAYPLANE_DATABASE_URL", settings.database_url, None),
        ("RAYPLANE_WORKFLOW_DATABASE_URL", settings.workflow_database_url, home.workflows),
        ("RAYPLANE_FEAST_REGISTRY_URL", settings.feast_registry_url, home.feast / "registry.db"),
    ):
        file = _SQLITE.match(url or "")
        if file is not None and Path(file[1]) != default and _inside(Path(file[1]), home):
            raise InvalidInput(
                f"The database of {name}, '{url}', lies in the home '{home.path}', which is yet to be made.",
                remedy=f"Unset {name}, which puts it at its default place in the home, or name a place outside of it.",
            )


def _inside(path: Path, home: Home) -> bool:
    return path.resolve().is_relative_to(home.path.resolve())


def _require_stopped(contents: Contents) -> None:
    pids = processes.marked(Home(Path(contents.home)).id)
    if pids:
        raise Conflict(
            f"The platform of the backup runs on this host, in '{contents.home}': both would act on the same jobs.",
            remedy=f"Stop it: RAYPLANE_HOME={contents.home} rayplane down",
        )


def _verified(reader: Reader, path: Path, say: Say) -> list[StoredFile]:
    """Verify every file of the archive; return the inventory."""
    contents = reader.contents
    for name, member in contents.members.items():
        _require_safe(name, path)
        reader.verify(name, member)
    files = _inventory(reader)
    for file in files:
        if file.member is not None:
            reader.verify(file.member, Member(size=file.size, sha256=file.sha256))
    say(f"the backup of {contents.made_at:%Y-%m-%d %H:%M:%S} UTC is whole: {len(contents.members)} files")
    return files


def _require_safe(name: str, path: Path) -> None:
    parts = PurePosixPath(name).parts
    known = name == INVENTORY or name.startswith((STORE, HOME, ROOT))
    if not known or ".." in parts or name.startswith("/"):
        raise damaged(path, f"no backup has a file '{name}'")


def _inventory(reader: Reader) -> list[StoredFile]:
    if INVENTORY not in reader.contents.members:
        return []
    with reader.stream(INVENTORY) as lines:
        return [StoredFile.model_validate_json(line) for line in lines]


def _root_of(contents: Contents, settings: GatewaySettings, home: Home) -> str:
    if settings.storage_root:
        return settings.storage_root.rstrip("/")
    return home.storage_uri if contents.files and contents.own_root else contents.storage_root


def _difference(files: list[StoredFile], uri: str, say: Say) -> Difference:
    root = open_root(uri).local_path("")
    if root is None:
        return Difference()
    difference = Difference(checked=len(files))
    for file in files:
        how = inventory.compare(Path(root), file)
        if how is not None:
            (difference.missing if how == "missing" else difference.changed).append(file.path)
    same = len(files) - len(difference.missing) - len(difference.changed)
    say(f"the storage root {uri}: {same} of {len(files)} files are there as they were")
    return difference


def _require_usable(difference: Difference, contents: Contents, uri: str, *, incomplete: bool) -> None:
    lacking = [] if contents.files else difference.missing
    wrong = [*(f"missing: {path}" for path in lacking), *(f"changed: {path}" for path in difference.changed)]
    if not wrong or (incomplete and not (contents.files and difference.changed)):
        return
    shown = "\n".join(f"  {line}" for line in wrong[:20]) + (f"\n  and {len(wrong) - 20} more" if wrong[20:] else "")
    raise Conflict(
        f"The storage root {uri} is not as the backup lists it:\n{shown}\n",
        remedy="Bring these files back, or name the root's place by --storage-root"
        + (", an empty one." if contents.files else "; --incomplete goes on without them."),
        missing=lacking,
        changed=difference.changed,
    )


def _require_room(reader: Reader, home: Home, files: list[StoredFile]) -> None:
    # Twice the size: each table is extracted to a file before its rows are inserted.
    need = 2 * sum(member.size for member in reader.contents.members.values()) + _SPARE
    need += sum(file.size for file in files if file.member is not None)
    above = next(folder for folder in home.path.parents if folder.is_dir())
    free = shutil.disk_usage(above).free
    if free < need:
        raise StorageFull(
            f"'{above}' has {free / 2**20:.0f} MiB free, the restore needs {need / 2**20:.0f}.",
            remedy="Free some space there, or name a home on a larger disk by --home.",
        )


def _write_files(reader: Reader, files: list[StoredFile], staging: Home, uri: str, *, own: bool) -> list[str]:
    """Write everything except the store: databases and secrets to the new home, the root's files to the root; notes."""
    notes, contents = [], reader.contents
    for name in reader.names(HOME):
        reader.extract(name, contents.members[name], staging.path / name.removeprefix(HOME))
    root = open_root(staging.storage_uri if own else uri)
    move = Move.between(contents.storage_root, uri)
    for file in files:
        if file.member is not None and not root.exists(file.path):
            with reader.stream(file.member) as stream:
                root.write_from(file.path, stream)
    for name in reader.names(ROOT):
        path = name.removeprefix(ROOT)
        if root.exists(path):
            notes.append(f"'{root.uri(path)}' was there and was left as it is.")
            continue
        # A team may write the root's folders, so SQLite opens the database before it is there.
        extracted = staging.path / ".database"
        reader.extract(name, contents.members[name], extracted)
        try:
            _move_registry(extracted, move)
        except sqlite3.Error as exc:
            notes.append(f"'{root.uri(path)}' names the storage root's former place: it can't be rewritten: {exc}.")
        with extracted.open("rb") as stream:
            root.write_from(path, stream)
        extracted.unlink()
    _move_registry(staging.feast / "registry.db", move)
    if not own:
        write_secret(staging.kept_root, uri + "\n")
    if contents.secrets:
        notes.append(
            f"The secrets are those of {contents.made_at:%Y-%m-%d %H:%M:%S} UTC: rotate again what was rotated since."
        )
    else:
        notes.append(
            "The backup has no secrets. New ones are made: hand out the new token; the tokens of clusters that run on "
            "are no longer good, so make them anew."
        )
    return notes


def _move_registry(path: Path, move: Move) -> None:
    """Rewrite the URIs of views' data in a registry of Feast, if there is one; other databases stay as they are."""
    if move.is_none or not path.is_file():
        return
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA trusted_schema=OFF")
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for table in [sql_name(name) for (name,) in tables]:
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for column in [sql_name(name) for name in names if name.endswith("_proto")]:
                query = f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL"
                for row, data in connection.execute(query).fetchall():
                    moved = move.message(data) if isinstance(data, bytes) else data
                    if moved != data:
                        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (moved, row))


def _fill_store(reader: Reader, staging: Home, uri: str) -> None:
    folder = staging.path / ".store"
    for name in reader.names(STORE):
        reader.extract(name, reader.contents.members[name], folder / name.removeprefix(STORE))
    move = Move.between(reader.contents.storage_root, uri)
    if not move.is_none:
        _move_tables(folder, move)
    child.snapshot("read", folder, staging.path)
    shutil.rmtree(folder)


def _move_tables(folder: Path, move: Move) -> None:
    summary = json.loads((folder / SNAPSHOT).read_bytes())
    for table, count in summary["tables"].items():
        before, after = folder / f"{table}.jsonl", folder / f"{table}.moved"
        digest = hashlib.sha256()
        with before.open("rb") as rows, after.open("wb") as out:
            head = rows.readline()
            documents = [column for column, (_, kind) in enumerate(json.loads(head)["columns"]) if kind == "json"]
            for line in chain([head], (move.line(row, documents) for row in rows)):
                digest.update(line)
                out.write(line)
        after.replace(before)
        count["sha256"] = digest.hexdigest()
    (folder / SNAPSHOT).write_text(json.dumps(summary))
