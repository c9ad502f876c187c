"""Lanes: a caller that leaves does not free the place of a thread that still works."""

from __future__ import annotations

import asyncio
import threading

from anyio import CapacityLimiter

from rayplane.gateway.api.lanes import run


def test_a_cancelled_caller_leaves_at_once_and_its_thread_keeps_its_place() -> None:
    released, working, works = threading.Event(), threading.Semaphore(0), []

    def work() -> None:
        works.append(threading.get_ident())
        working.release()
        assert released.wait(60)

    async def scenario() -> int:
        lane = CapacityLimiter(1)
        callers = [asyncio.ensure_future(run(lane, work)) for _ in range(5)]
        assert await asyncio.to_thread(working.acquire, timeout=60)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers, timeout=60)
        assert all(caller.cancelled() for caller in callers)
        borrowed = lane.borrowed_tokens
        released.set()
        await run(lane, lambda: None)
        return int(borrowed)

    assert asyncio.run(scenario()) == 1
    assert len(works) == 1, "who left while waiting for a place never takes one"
