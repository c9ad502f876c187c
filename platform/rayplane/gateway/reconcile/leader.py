"""Elect the one gateway that reconciles: it holds the leader's row in the store and renews it in good time."""

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
    """This process as a candidate for leadership. Not thread-safe: only the loop's thread uses it."""

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
        """Take or renew leadership when due; True while it is surely held, even if the store does not answer."""
        now = self._monotonic()
        if now >= self._renew_at:
            try:
                acquired = self._store.acquire_leadership(self._holder, self._ttl)
            except RayplaneError as exc:
                log.warning("leadership can't be renewed: %s", exc)
            else:
                # Counted from before the call, so that this process stops no later than the store lets another lead.
                self._until = now + self._ttl if acquired else float("-inf")
                self._renew_at = now + self._ttl / 4
        return self._monotonic() < self._until

    def release(self) -> None:
        """Release leadership, so that a successor need not wait."""
        self._until = self._renew_at = float("-inf")
        self._store.release_leadership(self._holder)
