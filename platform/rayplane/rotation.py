"""Files of rotating secrets: the key ring, digests of replaced tokens, notes for the audit log. Only reads and writes.

All are 0600 files of the home that are replaced atomically, so that a reader gets either the old or the new content.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayplane.errors import Conflict, InvalidInput
from rayplane.settings import Home, read_secret, write_secret

REMEMBERED = 8
"""Number of former keys and replaced tokens that are remembered, so that a refusal can say why."""


def moment(seconds: float) -> str:
    """An instant, in seconds since the epoch, as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def ring_path(home: Home) -> Path:
    """Path of the key ring, which signs clusters' tokens."""
    return home.secrets / "signing.key"


def metrics_path(home: Home) -> Path:
    """Path of Prometheus' token."""
    return home.secrets / "metrics.token"


def history_path(home: Home) -> Path:
    """Path of the digests of the local user's replaced tokens."""
    return home.secrets / "replaced.json"


def team_paths(home: Home) -> list[Path]:
    """Paths of the secrets with which the teams' processes are known to MLflow; not those of next or former users."""
    return sorted((home.secrets / "teams").glob("*.mlflow"))


def next_path(path: Path) -> Path:
    """Path of a new secret that the gateway must set at another server before it replaces the file ``path``."""
    return path.with_name(f"{path.name}.next")


def former_path(path: Path) -> Path:
    """Path of a note on the secret that ``path`` replaced, and until when the other server still accepts it."""
    return path.with_name(f"{path.name}.former")


@dataclass(frozen=True)
class FormerUser:
    """A replaced user of another server, which the gateway deletes there after a grace period."""

    name: str
    until: float
    """Time (seconds since the epoch) at which it is deleted."""
    grace: float
    """Seconds."""


def read_former(path: Path) -> FormerUser:
    """Read the note on the user that the secret file ``path`` replaced; raises InvalidInput if there is none."""
    name, until, grace = read_secret(former_path(path)).splitlines()[:3]
    return FormerUser(name, float(until), float(grace))


def write_former(path: Path, user: FormerUser) -> None:
    """Write the note on the user that the secret file ``path`` replaced."""
    write_secret(former_path(path), f"{user.name}\n{user.until:.0f}\n{user.grace:.0f}\n")


@dataclass(frozen=True)
class Former:
    """A key that no longer signs."""

    key: str
    until: float
    """Time (seconds since the epoch) until which tokens that it signed are accepted."""


@dataclass(frozen=True)
class Ring:
    """The key that signs, and former keys, newest first. Its file has a line per key."""

    key: str
    former: tuple[Former, ...] = ()

    @property
    def text(self) -> str:
        """The text of its file."""
        return "\n".join([self.key, *(f"{old.key} {int(old.until)}" for old in self.former)]) + "\n"

    def rotated(self, key: str, *, until: float) -> Ring:
        """The ring with a new key; tokens of the present and former keys are accepted until ``until`` at the latest."""
        former = (Former(self.key, until), *(Former(old.key, min(old.until, until)) for old in self.former))
        return Ring(key, former[:REMEMBERED])


def parse_ring(text: str) -> Ring:
    """Parse a ring; raises ValueError. A single key, as older versions wrote it, is a ring too."""
    first, *lines = text.strip().splitlines()
    if len(first) < 16:
        raise ValueError(f"its first line has {len(first)} characters, too few to be safe")
    former = []
    for line in lines:
        key, _, until = line.rpartition(" ")
        if not key or not until.isdigit():
            raise ValueError("a former key's line is not '<key> <seconds since the epoch>'")
        former.append(Former(key, float(until)))
    return Ring(first, tuple(former))


def read_ring(path: Path) -> Ring:
    """Read a ring; raises InvalidInput if its file is damaged, missing, or readable by other users."""
    try:
        return parse_ring(read_secret(path))
    except ValueError as exc:
        raise InvalidInput(
            f"Secret file '{path}' holds no ring of keys: {exc}.",
            remedy="Keep its first line alone: clusters whose token another key signed must be resumed then.",
        ) from None


@dataclass(frozen=True)
class Replaced:
    """A replaced token, known only by its digest."""

    digest: str
    at: float
    """Seconds since the epoch."""

    def is_of(self, token: str) -> bool:
        """True if the digest is that of ``token``."""
        return secrets.compare_digest(self.digest, _digest(token))


def replace_token(path: Path, token: str, *, history: Path, at: float) -> None:
    """Write a new token to a file, and record the replaced token's digest in ``history``."""
    replaced = read_replaced(history)
    if path.exists():
        replaced = [Replaced(_digest(read_secret(path)), at), *replaced][:REMEMBERED]
    write_secret(history, json.dumps([[old.digest, old.at] for old in replaced]) + "\n")
    write_secret(path, token + "\n")


def read_replaced(history: Path) -> list[Replaced]:
    """Read the replaced tokens, newest first; empty if the file is missing or damaged."""
    try:
        return [Replaced(str(digest), float(at)) for digest, at in json.loads(read_secret(history))]
    except (InvalidInput, ValueError, TypeError):
        return []  # it only adds detail to the refusal of a token


@dataclass(frozen=True)
class Note:
    """A rotation that is not in the audit log yet. Has no secret."""

    id: str
    secret: str
    at: float
    detail: dict[str, Any]


def write_note(home: Home, secret: str, detail: dict[str, Any], *, at: float) -> None:
    """Write a note about a rotation, which the leading gateway copies to the audit log, now or once it runs again."""
    note = {"id": uuid.uuid4().hex, "secret": secret, "at": at, "detail": detail}
    write_secret(_notes(home) / f"{at:017.6f}-{note['id']}.json", json.dumps(note) + "\n")


def read_notes(home: Home) -> list[tuple[Path, Note]]:
    """Read the notes, oldest first, each with its file; damaged ones are left out."""
    notes = []
    for path in sorted(_notes(home).glob("*.json")):
        with contextlib.suppress(InvalidInput, ValueError, KeyError, TypeError):
            value = json.loads(read_secret(path))
            note = Note(str(value["id"]), str(value["secret"]), float(value["at"]), dict(value["detail"]))
            notes.append((path, note))
    return notes


@contextlib.contextmanager
def locked(home: Home, *, patience: float = 10.0) -> Iterator[None]:
    """Hold the home's rotation lock; raises Conflict if another process holds it for ``patience`` seconds."""
    home.secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + patience
    with (home.secrets / ".rotation.lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Conflict("Secrets of this home are being rotated.", remedy="Try again.") from None
                time.sleep(0.1)
        yield


def _notes(home: Home) -> Path:
    return home.secrets / "rotations"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
