"""Hold a request until an object changes, without occupying a thread: a change wakes the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress

from rayplane.gateway.store.changes import Changes

LONGEST = 0.5
"""Seconds after which the object is read again even if no change was reported: another gateway may have written it."""


@asynccontextmanager
async def listening(
    changes: Changes, *uids: str, pause: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[Callable[[float], Awaitable[bool]]]:
    """Listen for changes of the objects, for the duration of the block; yields ``changed``.

    ``changed(deadline)`` waits until one of the objects may have changed; it returns False once the deadline (monotonic
    seconds) has passed or the gateway stops. Without a reported change it returns after the greater of ``pause()`` and
    LONGEST seconds.
    """
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it the request
            loop.call_soon_threadsafe(event.set)

    async def changed(deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0 or changes.closed:
            return False
        try:
            await asyncio.wait_for(event.wait(), min(left, max(LONGEST, pause())))
        except TimeoutError:
            return True
        event.clear()
        return True

    with ExitStack() as stack:
        for uid in uids:
            stack.enter_context(changes.listening(uid, tell))
        yield changed
