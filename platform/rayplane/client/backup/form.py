"""What a backup holds and whether this rayplane can read it. Pure."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

from rayplane.errors import Unsupported
from rayplane.nouns.base import Instant

FORM = 1
"""Of the archive. One that is written otherwise has a higher number."""
CONTENTS = "backup.json"
INVENTORY = "storage.jsonl"
STORE = "store/"
SNAPSHOT = "snapshot.json"
"""Among the store's files: what the others hold (``gateway/store/snapshot.py``)."""
HOME = "home/"
ROOT = "root/"
"""Databases of the storage root: Feast's, which are written to at any moment."""
FILES = "files/"
"""The storage root's files, by their number in the inventory."""


class Model(BaseModel):
    """Part of a backup; members that a later version adds are passed over."""

    model_config = ConfigDict(extra="ignore")


class Member(Model):
    """One file of the archive."""

    size: int
    sha256: str


class StoredFile(Model):
    """One file of the storage root, as it was."""

    path: str
    size: int
    sha256: str
    grows: bool = False
    """A log: it may be longer now, and begins with what it had."""
    member: str | None = None
    """The archive's file with its content."""


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
    """The version that made it."""
    mlflow: str | None = None
    """MLflow's version, which its databases are of; None without them."""
    home: str
    storage_root: str
    own_root: bool
    """Whether the root was the home's own folder ``storage``."""
    store: StorePart
    databases: dict[str, str | None] = Field(default_factory=dict)
    """Member -> revision of the schema, of each SQLite file."""
    secrets: bool
    files: bool
    """Whether it holds the storage root's files, not their list alone."""
    file_count: int = 0
    file_bytes: int = 0
    outside: list[str] = Field(default_factory=list)
    """What belongs to the platform and is not in here, each with what to do about it."""
    members: dict[str, Member] = Field(default_factory=dict)
    """Every other file of the archive but those of the storage root, which the inventory has."""


def require_readable(contents: Contents, *, mlflow: str | None) -> None:
    """Raise Unsupported for a backup of a newer form, or of a newer MLflow than is installed."""
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
    """A version's leading numbers, to be compared: ``3.17.2rc1`` is (3, 17, 2)."""
    return tuple(int(found) for found in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]
