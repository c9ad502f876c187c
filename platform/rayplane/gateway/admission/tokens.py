"""Who a token stands for: the local user, Prometheus, or a cluster by a signed token. Only ``load`` touches files."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from pathlib import Path

from rayplane.errors import InvalidInput
from rayplane.gateway.admission.roles import Principal
from rayplane.settings import Home, read_secret, write_secret

USER = "local"
"""Name of the single user of a local platform."""

_PREFIX = "rpc1"  # rayplane cluster, format 1


class TokenSigner:
    """Signs clusters' tokens and tells whose a token is. A cluster's token can't be made or changed without the key."""

    def __init__(self, *, key: bytes, user_token: str, metrics_token: str) -> None:
        if len(key) < 16 or not user_token or not metrics_token:
            raise ValueError("a signer needs a key of at least 16 bytes and two tokens")
        self._key = key
        self._user = user_token
        self._metrics = metrics_token

    def cluster_token(self, team: str, cluster_uid: str) -> str:
        """The token of a cluster: the same each time, good for as long as that very cluster exists."""
        payload = _encode(json.dumps([team, cluster_uid], separators=(",", ":")).encode())
        return f"{_PREFIX}.{payload}.{self._signature(payload)}"

    def verify(self, token: str) -> Principal | None:
        """Whose token this is; None if nobody's. Takes the same time for each wrong one."""
        is_user = _equal(token, self._user)
        is_metrics = _equal(token, self._metrics)
        if is_user:
            return Principal(name=USER, role="admin")
        if is_metrics:
            return Principal(name="prometheus", role="metrics")
        return self._cluster(token)

    def _cluster(self, token: str) -> Principal | None:
        prefix, _, rest = token.partition(".")
        payload, _, signature = rest.partition(".")
        if prefix != _PREFIX or not _equal(signature, self._signature(payload)):
            return None
        team, uid = json.loads(_decode(payload))
        return Principal(name=f"cluster:{uid}", role="cluster", team=team, cluster_uid=uid)

    def _signature(self, payload: str) -> str:
        text = f"{_PREFIX}.{payload}".encode("utf-8", "surrogatepass")
        return _encode(hmac.new(self._key, text, hashlib.sha256).digest())


def load(home: Home) -> TokenSigner:
    """The signer of a home. What is missing is made: the signing key, the user's token, Prometheus' token (each 0600).

    Raises InvalidInput where others may read one of them.
    """
    return TokenSigner(
        key=_secret(home.secrets / "signing.key").encode(),
        user_token=_secret(home.token),
        metrics_token=_secret(home.secrets / "metrics.token"),
    )


def _secret(path: Path) -> str:
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(32) + "\n")
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
