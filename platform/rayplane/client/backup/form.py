"""The format of a backup: its contents, and a check that this rayplane can read it. Pure."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

from rayplane.errors import Unsupported
from rayplane.nouns.base import Instant

FORM = 1
"""Version of the archive's format; each change of the format raises it."""
CONTENTS = "backup.json"
INVENTORY = "storage.jsonl"
STORE = "store/"
SNAPSHOT = "snapshot.json"
"""File that describes the store's other files (``gateway/store/snapshot.py``)."""
HOME = "home/"
ROOT = "root/"
"""Prefix of databases in the storage root: Feast's, which may change at any moment and so are copied by SQLite."""
FILES = "files/"
"""Prefix of the storage root's files, each named by its number in the inventory."""


class Model(BaseModel):
    """Part of a backup; ignores fields that a later version adds."""

    model_config = ConfigDict(extra="ignore")


class Member(Model):
    """One file of the archive."""

    size: int
    sha256: str


class StoredFile(Model):
    """One file of the storage root, as of the backup."""

    path: str
    size: int
    sha256: str
    grows: bool = False
    """True for a log: today's file may be longer, but begins with the recorded bytes."""
    member: str | None = None
    """Name of the archive's file that has the content, if the backup copied it."""


class LeftOut(Model):
    """A file of the storage root that a backup does not have."""

    path: str
    reason: str


class TableCount(Model):
    """One table of the store."""

    rows: int
    sha256: str


class StorePart(Model):
    """The store's snapshot."""

    revision: str
    database: str
    tables: dict[str, TableCount]


class Contents(Model):
    """The backup's own description."""

    form: int = FORM
    made_at: Instant
    rayplane: str
    """Version of rayplane that made the backup."""
    mlflow: str | None = None
    """Version of MLflow whose databases the backup has; None without them."""
    home: str
    storage_root: str
    own_root: bool
    """True if the root was the home's own folder ``storage``."""
    store: StorePart
    databases: dict[str, str | None] = Field(default_factory=dict)
    """Member -> revision of the schema, of each SQLite file."""
    secrets: bool
    files: bool
    """True if the backup has the storage root's files, not only a list of them."""
    file_count: int = 0
    file_bytes: int = 0
    left_out: list[LeftOut] = Field(default_factory=list)
    """Files of the storage root that could not be read, each with the reason."""
    outside: list[str] = Field(default_factory=list)
    """Parts of the platform that are not in the backup, each with how to back it up."""
    members: dict[str, Member] = Field(default_factory=dict)
    """All other files of the archive, except those of the storage root, which the inventory lists."""


def require_readable(contents: Contents, *, mlflow: str | None) -> None:
    """Raise Unsupported for a backup in a newer format, or with databases of a newer MLflow than the installed one."""
    if contents.form > FORM:
        raise Unsupported(
            f"The backup has form {contents.form}, of rayplane {contents.rayplane}; this one reads {FORM} at most.",
            remedy=f"Install rayplane {contents.rayplane} or a newer one.",
        )
    if contents.mlflow and mlflow and numbers(contents.mlflow) > numbers(mlflow):
        raise Unsupported(
            f"The backup has databases of MLflow {contents.mlflow}, which the installed MLflow {mlflow} can't read.",
            remedy=f"Install MLflow {contents.mlflow} or a newer one.",
        )


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison: ``3.17.2rc1`` gives (3, 17, 2)."""
    return tuple(int(number) for number in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]
