"""Whether this gateway reconciles: it holds the leader's row in the store, and renews it well before it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rayplane.errors import RayplaneError
from rayplane.gateway.store import Store

log = logging.getLogger(__name__)

TTL = 8.0
"""Seconds after which another gateway may take over from one that died."""


class Leader:
    """This process as a candidate. Not thread-safe: the loop's thread alone asks."""

    def __init__(
        self, store: Store, holder: str, *, ttl: float = TTL, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._holder = holder
        self._ttl = ttl
        self._monotonic = monotonic
        self._until = float("-inf")
        self._renew_at = float("-inf")

    def leads(self) -> bool:
        """Take or renew leadership if it is time to; True while it is surely held, even if the store is away."""
        now = self._monotonic()
        if now >= self._renew_at:
            try:
                held = self._store.acquire_leadership(self._holder, self._ttl)
            except RayplaneError as exc:
                log.warning("leadership can't be renewed: %s", exc)
            else:
                # Counted from before the call, so that this process lets go no later than the store does.
                self._until = now + self._ttl if held else float("-inf")
                self._renew_at = now + self._ttl / 4
        return self._monotonic() < self._until

    def release(self) -> None:
        """Give leadership up, so that a successor need not wait."""
        self._until = self._renew_at = float("-inf")
        self._store.release_leadership(self._holder)
