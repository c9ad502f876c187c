"""Files of secrets that rotate: the key ring, tokens that were replaced, notes for the audit log. Knows no meaning.

All are 0600 files of the home that are replaced as a whole: every process that reads them sees the old or the new one.
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
from pathlib import Path
from typing import Any

from rayplane.errors import Conflict, InvalidInput
from rayplane.settings import Home, read_secret, write_secret

REMEMBERED = 8
"""How many former keys, and replaced tokens, are remembered: to tell what became of them, not to accept them."""


def ring_path(home: Home) -> Path:
    """The key ring with which clusters' tokens are signed."""
    return home.secrets / "signing.key"


def metrics_path(home: Home) -> Path:
    """Prometheus' token."""
    return home.secrets / "metrics.token"


def history_path(home: Home) -> Path:
    """Which user's tokens were replaced."""
    return home.secrets / "replaced.json"


def next_path(path: Path) -> Path:
    """Where a secret waits that the gateway has yet to bring to another server, before it takes ``path``'s place."""
    return path.with_name(f"{path.name}.next")


def former_path(path: Path) -> Path:
    """Which secret of another server's the one at ``path`` replaced, and until when that is still accepted there."""
    return path.with_name(f"{path.name}.former")


@dataclass(frozen=True)
class Former:
    """A key that signs no more."""

    key: str
    until: float
    """Seconds since the epoch until which what it signed is accepted."""


@dataclass(frozen=True)
class Ring:
    """The key that signs, and those that did before it, the newest first. Its file: a line for each."""

    key: str
    former: tuple[Former, ...] = ()

    @property
    def text(self) -> str:
        """What its file holds."""
        return "\n".join([self.key, *(f"{old.key} {int(old.until)}" for old in self.former)]) + "\n"

    def rotated(self, key: str, *, until: float) -> Ring:
        """The ring with another key: what the present one signed is accepted until then, what others did no longer."""
        former = (Former(self.key, until), *(Former(old.key, min(old.until, until)) for old in self.former))
        return Ring(key, former[:REMEMBERED])


def parse_ring(text: str) -> Ring:
    """The ring of a file's text; raises ValueError. A key alone, as it was before there were rings, is one too."""
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
    """The ring in a file; raises InvalidInput where it is damaged, missing, or others may read it."""
    try:
        return parse_ring(read_secret(path))
    except ValueError as exc:
        raise InvalidInput(
            f"Secret file '{path}' holds no ring of keys: {exc}.",
            remedy="Keep its first line alone: clusters whose token another key signed must be resumed then.",
        ) from None


@dataclass(frozen=True)
class Replaced:
    """A token that was replaced, by its digest: it can't be had from it."""

    digest: str
    at: float
    """Seconds since the epoch."""

    def is_of(self, token: str) -> bool:
        """Whether it is this token's."""
        return secrets.compare_digest(self.digest, _digest(token))


def replace_token(path: Path, token: str, *, history: Path, at: float) -> None:
    """Put another token into a file, and remember in ``history`` which one it replaced."""
    replaced = read_replaced(history)
    if path.exists():
        replaced = [Replaced(_digest(read_secret(path)), at), *replaced][:REMEMBERED]
    write_secret(history, json.dumps([[old.digest, old.at] for old in replaced]) + "\n")
    write_secret(path, token + "\n")


def read_replaced(history: Path) -> list[Replaced]:
    """The tokens that were replaced, the newest first; none where nothing is remembered, or it is damaged."""
    try:
        return [Replaced(str(digest), float(at)) for digest, at in json.loads(read_secret(history))]
    except (InvalidInput, ValueError, TypeError):
        return []  # it only serves to say more of a token that is refused in any case


@dataclass(frozen=True)
class Note:
    """A rotation that the audit log does not have yet. It holds no secret."""

    id: str
    secret: str
    at: float
    detail: dict[str, Any]


def write_note(home: Home, secret: str, detail: dict[str, Any], *, at: float) -> None:
    """Leave a note of a rotation: the leading gateway takes it into the audit log, now or when it is up again."""
    note = {"id": uuid.uuid4().hex, "secret": secret, "at": at, "detail": detail}
    write_secret(_notes(home) / f"{at:017.6f}-{note['id']}.json", json.dumps(note) + "\n")


def read_notes(home: Home) -> list[tuple[Path, Note]]:
    """The notes that were left, the oldest first, each with its file. One that is damaged is left out."""
    found = []
    for path in sorted(_notes(home).glob("*.json")):
        with contextlib.suppress(InvalidInput, ValueError, KeyError, TypeError):
            value = json.loads(read_secret(path))
            note = Note(str(value["id"]), str(value["secret"]), float(value["at"]), dict(value["detail"]))
            found.append((path, note))
    return found


@contextlib.contextmanager
def locked(home: Home, *, patience: float = 10.0) -> Iterator[None]:
    """Hold off other rotations of the home; raises Conflict if one does not end."""
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
