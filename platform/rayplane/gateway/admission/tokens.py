"""Identify the principal of a token: the local user, Prometheus, or a cluster by a signed token.

``TokenSigner`` is pure. ``HomeSigner`` has the secrets of a home and notices when they are rotated.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rayplane import rotation
from rayplane.errors import InvalidInput, RayplaneError, Unauthenticated
from rayplane.gateway.admission.roles import Principal
from rayplane.repeats import Repeats
from rayplane.rotation import Former, Replaced, moment
from rayplane.settings import Home, read_secret, write_secret

log = logging.getLogger(__name__)

USER = "local"
"""Name of the single user of a local platform."""

_PREFIX = "rpc1"  # rayplane cluster, format 1

_Stamp = tuple[tuple[int, int, int] | None, ...]
"""Identity and time of each of a home's secret files; None for one that is missing."""

REMEDY = "Send 'Authorization: Bearer <token>'; 'rayplane up' prints where the local token is kept."

LOOK_EVERY = 1.0
"""Seconds between two looks at the files: for so long a replaced token may still be accepted."""


class Signer(Protocol):
    """Verifies tokens for the gateway, and makes those of clusters."""

    def cluster_token(self, team: str, cluster_uid: str) -> str:
        """The token of a cluster; the same at each call until the key is rotated."""
        ...

    def verify(self, token: str) -> Principal | None:
        """The principal of a token; None if the token is not valid."""
        ...

    def refusal(self, token: str) -> Unauthenticated:
        """The error for a token that is not valid: the reason, and what to do."""
        ...

    def grace_ends(self) -> datetime | None:
        """The instant until which tokens of a former key are accepted; None if none are."""
        ...

    @property
    def version(self) -> str:
        """A text that changes when the key does, and reveals nothing of it."""
        ...


class TokenSigner:
    """Signs clusters' tokens and verifies tokens. Without the key a cluster's token can be neither made nor changed."""

    def __init__(
        self,
        *,
        key: bytes,
        user_token: str,
        metrics_token: str,
        former: Sequence[Former] = (),
        replaced: Sequence[Replaced] = (),
        user_path: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``former`` keys are accepted until their time ends; the error for a ``replaced`` token says where the new is.

        Raises ValueError for a key or token that is too short.
        """
        if len(key) < 16 or not user_token or not metrics_token:
            raise ValueError("a signer needs a key of at least 16 bytes and two tokens")
        self._key = key
        self._user = user_token
        self._metrics = metrics_token
        self._former = tuple(former)
        self._replaced = tuple(replaced)
        self._user_path = user_path
        self._clock = clock

    def cluster_token(self, team: str, cluster_uid: str) -> str:
        """The token of a cluster; the same at each call, and valid as long as that cluster and the key exist."""
        payload = _encode(json.dumps([team, cluster_uid], separators=(",", ":")).encode())
        return f"{_PREFIX}.{payload}.{_signature(self._key, payload)}"

    def verify(self, token: str) -> Principal | None:
        """The principal of a token; None if the token is not valid. Takes the same time for each invalid token."""
        is_user = _equal(token, self._user)
        is_metrics = _equal(token, self._metrics)
        if is_user:
            return Principal(name=USER, role="admin")
        if is_metrics:
            return Principal(name="prometheus", role="metrics")
        return self._cluster(token)

    def refusal(self, token: str) -> Unauthenticated:
        """The error for a token that is not valid: the reason, and what to do."""
        for replaced in self._replaced:
            if replaced.is_of(token):
                where = f"'{self._user_path}'" if self._user_path is not None else "the home"
                return Unauthenticated(
                    f"This token was replaced at {moment(replaced.at)}: 'rayplane token rotate' made another one.",
                    remedy=f"Read the new one from {where}; rayplane's commands and SDK do so at each call.",
                    reason="rotated-token",
                )
        for former in self._former:
            if _signed(former.key.encode(), token) is not None:
                return Unauthenticated(
                    f"The key that signed this token was rotated, and its time ended at {moment(former.until)}.",
                    remedy="Read RAYPLANE_TOKEN_PATH anew; if it holds this one still, suspend and resume the cluster.",
                    reason="rotated-token",
                )
        return Unauthenticated(
            "The token is not known here: it is wrong or was revoked.", remedy=REMEDY, reason="unknown-token"
        )

    def grace_ends(self) -> datetime | None:
        """The instant until which tokens of a former key are accepted; None if none are."""
        until = max((former.until for former in self._former), default=0.0)
        return datetime.fromtimestamp(until, UTC) if until > self._clock() else None

    @property
    def version(self) -> str:
        """A text that changes when the key does, and reveals nothing of it."""
        return hashlib.sha256(b"version of " + self._key).hexdigest()[:16]

    def _cluster(self, token: str) -> Principal | None:
        now = self._clock()
        # Try every key, so that each invalid token takes the same time, whatever is wrong with it.
        keys = [self._key, *(former.key.encode() for former in self._former if former.until > now)]
        payload = next(filter(None, [_signed(key, token) for key in keys]), None)
        if payload is None:
            return None
        team, uid = json.loads(_decode(payload))
        return Principal(name=f"cluster:{uid}", role="cluster", team=team, cluster_uid=uid)


class HomeSigner:
    """The signer with the secrets of a home, whose files it checks once a second, and at once for an unknown token.

    So every gateway on the home accepts a new token at once, and an old one for another second at most. While the files
    can't be read, the former secrets stay in use. Thread-safe.
    """

    def __init__(
        self,
        home: Home,
        signer: TokenSigner,
        stamp: _Stamp,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """``signer`` has the secrets of the files as they were with this ``stamp``."""
        self._home = home
        self._clock = clock
        self._monotonic = monotonic
        self._errors = Repeats(log)
        self._lock = threading.Lock()
        self._looked_at = monotonic()
        self._stamp = stamp
        self._signer = signer

    @classmethod
    def read(
        cls, home: Home, *, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> HomeSigner:
        """Read the secrets; raises InvalidInput if one is missing or too short, or if others may read it."""
        stamp = _stamp_of_secrets(home)  # before the secrets: what changes meanwhile is read again
        return cls(home, _read_signer(home, clock), stamp, clock=clock, monotonic=monotonic)

    def cluster_token(self, team: str, cluster_uid: str) -> str:
        """The token of a cluster; the same at each call until the key is rotated."""
        return self._fresh().cluster_token(team, cluster_uid)

    def verify(self, token: str) -> Principal | None:
        """The principal of a token; None if the token is not valid."""
        signer = self._fresh()
        principal = signer.verify(token)
        if principal is None and (newer := self._fresh(at_once=True)) is not signer:
            principal = newer.verify(token)
        return principal

    def refusal(self, token: str) -> Unauthenticated:
        """The error for a token that is not valid: the reason, and what to do."""
        return self._fresh().refusal(token)

    def grace_ends(self) -> datetime | None:
        """The instant until which tokens of a former key are accepted; None if none are."""
        return self._fresh().grace_ends()

    @property
    def version(self) -> str:
        """A text that changes when the key does, and reveals nothing of it."""
        return self._fresh().version

    def _fresh(self, *, at_once: bool = False) -> TokenSigner:
        with self._lock:
            now = self._monotonic()
            if at_once or now - self._looked_at >= LOOK_EVERY:
                self._looked_at = now
                self._take_in()
            return self._signer

    def _take_in(self) -> None:
        stamp = _stamp_of_secrets(self._home)
        if stamp == self._stamp:
            return
        try:
            self._signer = _read_signer(self._home, self._clock)
        except RayplaneError as exc:
            self._errors.failed("secrets", exc, "the home's tokens can't be read anew", traceback=False)
            return
        self._stamp = stamp
        self._errors.works("secrets")
        log.info("the home's tokens were read anew")


def load(home: Home) -> HomeSigner:
    """The signer of a home. Creates missing secrets: the signing key, the user's token, Prometheus' token (each 0600).

    Raises InvalidInput if others may read one of them.
    """
    for path in (rotation.ring_path(home), home.token, rotation.metrics_path(home)):
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(32) + "\n")
    return HomeSigner.read(home)


def _read_signer(home: Home, clock: Callable[[], float]) -> TokenSigner:
    path = rotation.ring_path(home)
    _checked(path)
    ring = rotation.read_ring(path)
    return TokenSigner(
        key=ring.key.encode(),
        user_token=_checked(home.token),
        metrics_token=_checked(rotation.metrics_path(home)),
        former=ring.former,
        replaced=rotation.read_replaced(rotation.history_path(home)),
        user_path=home.token,
        clock=clock,
    )


def _stamp_of_secrets(home: Home) -> _Stamp:
    paths = (rotation.ring_path(home), home.token, rotation.metrics_path(home), rotation.history_path(home))
    return tuple(_stamp_of(path) for path in paths)


def _signed(key: bytes, token: str) -> str | None:
    """The payload of a token that this key signed; None if it did not."""
    prefix, _, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    matches = _equal(signature, _signature(key, payload))
    return payload if prefix == _PREFIX and matches else None


def _signature(key: bytes, payload: str) -> str:
    text = f"{_PREFIX}.{payload}".encode("utf-8", "surrogatepass")
    return _encode(hmac.new(key, text, hashlib.sha256).digest())


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_ino, stat.st_mtime_ns, stat.st_mode)


def _checked(path: Path) -> str:
    """The text of a secret file; raises InvalidInput if it is too short to be safe."""
    text = read_secret(path)
    if len(text) < 16:
        raise InvalidInput(
            f"Secret file '{path}' holds {len(text)} characters, too few to be safe.",
            remedy="Remove it and start the gateway: it makes a new one.",
        )
    return text


def _equal(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode("utf-8", "surrogatepass"), b.encode("utf-8", "surrogatepass"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
