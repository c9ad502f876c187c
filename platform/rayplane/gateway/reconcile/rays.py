"""REST clients of the clusters that run, one for each endpoint and kept, since making one costs more than a call."""

from __future__ import annotations

import threading
from pathlib import Path

from rayplane.gateway.ray_rest import RayRest
from rayplane.nouns.cluster import Endpoint
from rayplane.settings import read_secret

_KEPT = 512
"""The most clients that are kept: clusters come and go, and the one made first is the likeliest to be gone."""


class RayClients:
    """Callable: an endpoint in, its client out. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str | None], tuple[str | None, RayRest]] = {}

    def __call__(self, endpoint: Endpoint) -> RayRest:
        """The endpoint's client; raises InvalidInput if its token's file can't be read."""
        token = read_secret(Path(endpoint.token_path)) if endpoint.token_path else None
        key = (endpoint.dashboard_url, endpoint.token_path)
        with self._lock:
            known = self._clients.get(key)
            if known is not None and known[0] == token:
                return known[1]
            client = RayRest(endpoint.dashboard_url, token)
            self._clients[key] = (token, client)
            while len(self._clients) > _KEPT:
                # Not closed, since a thread may be using it: its connections go with its last user.
                del self._clients[next(iter(self._clients))]
            return client

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            for _, client in self._clients.values():
                client.close()
            self._clients.clear()
