"""Cache REST clients of running clusters, one for each endpoint: making one costs more than a call."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from rayplane.errors import InvalidSpec, Unavailable
from rayplane.gateway import ray_address, ray_token
from rayplane.gateway.ray_reach import Reach
from rayplane.gateway.ray_rest import RayRest
from rayplane.nouns.cluster import Endpoint
from rayplane.settings import read_secret

_KEPT = 512
"""Limit of cached clients: the cluster of the oldest one is the likeliest to be gone."""


_Key = tuple[str, str | None, str]


class RayClients:
    """Callable from an endpoint to its client. Thread-safe."""

    def __init__(self, existing_addresses: Iterable[str] = ()) -> None:
        """``existing_addresses``: allowed addresses of Rays that others run. Raises InvalidInput for an invalid one."""
        self._allowed = ray_address.AllowList(existing_addresses)
        self._lock = threading.Lock()
        self._clients: dict[_Key, tuple[str | None, RayRest]] = {}

    def __call__(self, endpoint: Endpoint) -> RayRest:
        """The endpoint's client. Raises InvalidInput if its token file can't be read, Unavailable for a bad address."""
        token = _token(endpoint)
        key = (endpoint.dashboard_url, endpoint.token_path, endpoint.reach)
        with self._lock:
            known = self._clients.get(key)
            if known is not None and known[0] == token:
                return known[1]
            client = RayRest(endpoint.dashboard_url, token, reach=self._reach(endpoint))
            self._clients[key] = (token, client)
            while len(self._clients) > _KEPT:
                # Not closed, since a thread may be using it: its connections close with the last reference.
                del self._clients[next(iter(self._clients))]
            return client

    def close(self) -> None:
        """Close all clients."""
        with self._lock:
            for _, client in self._clients.values():
                client.close()
            self._clients.clear()

    def _reach(self, endpoint: Endpoint) -> Reach | None:
        return None if endpoint.reach == "own" else Reach(self._allowed, placed=endpoint.reach == "placed")


def _token(endpoint: Endpoint) -> str | None:
    """The endpoint's token; for a cluster that others run only if the token file names this very address."""
    if endpoint.token_path is None:
        return None
    path = Path(endpoint.token_path)
    if endpoint.reach == "own":
        return read_secret(path)
    try:
        return ray_token.token_for(ray_address.parse(endpoint.dashboard_url), path).token
    except InvalidSpec as exc:
        raise Unavailable(f"The cluster's address can't be asked: {exc}") from exc
