"""Report events: write each to the job's folder, then post it to the gateway from a thread, at least once.

The gateway recognises a second delivery by the event's id.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
import time
import uuid
from typing import Any

from rayplane.errors import InvalidData, RayplaneError, Unavailable
from rayplane.nouns.base import check_json
from rayplane.nouns.events import Edge, Event, EventType
from rayplane.nouns.job import RunContext
from rayplane.runtime import context
from rayplane.storage.layout import EVENTS
from rayplane.storage.root import open_root, relative

BATCH = 100
EXIT_PATIENCE = 10.0
"""Seconds that an ending process waits for its events to be posted; the reconciler reads the rest from the folder."""

_log = logging.getLogger(__name__)


def emit(type_: EventType, data: dict[str, Any]) -> Event:
    """Report one event; nouns/events.py describes ``data`` (JSON) for each type.

    In a job the event is on disk when this returns, and a thread posts it. Outside a job, which has no such folder,
    the event is posted before this returns. Raises InvalidData for data that is not JSON; in a job StorageFull; outside
    of one Unavailable if the gateway is down.
    """
    ctx = context.current()
    event = Event(id=uuid.uuid4().hex, type=type_, submission_id=ctx.submission_id, data=_checked(type_, data))
    if ctx.job_uri is None:
        _post(ctx, [event], patience=context.PATIENCE)
        return event
    path = f"{relative(ctx.storage_root, ctx.job_uri)}/{EVENTS}/{event.id}.json"
    open_root(ctx.storage_root).write(path, event.model_dump_json().encode())
    _poster.add(ctx, event)
    return event


def output(name: str, value: Any) -> Event:
    """Record a plain JSON value under a name; later steps of the pipeline read it as ``<step>.<name>``."""
    return emit("output.recorded", {"name": name, "value": value})


def edge(source: str, target: str) -> Event:
    """Record one edge of lineage between two nodes, written as in nouns/events.py."""
    return emit("lineage", Edge(source=source, target=target).model_dump(mode="json"))


def flush(timeout: float = EXIT_PATIENCE) -> bool:
    """Wait until all events so far are posted; False if some are not after ``timeout`` seconds (they stay on disk)."""
    return _poster.flush(timeout)


class _Poster:
    """A thread that posts the queued events in batches, with retries and back-off while the gateway is down."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[tuple[RunContext, Event]] = []
        self._thread: threading.Thread | None = None
        self._hurry = False

    def add(self, ctx: RunContext, event: Event) -> None:
        with self._changed:
            self._queue.append((ctx, event))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rayplane-report", daemon=True)
                self._thread.start()
                atexit.register(self.flush, EXIT_PATIENCE)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            while self._queue and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._queue:
                _log.warning("%d events are not posted yet; they are in the job's folder", len(self._queue))
            return not self._queue

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue))
                if pause and not self._hurry:
                    self._changed.wait_for(lambda: self._hurry, pause)
                if self._hurry:
                    pause, self._hurry = 0.0, False
                ctx = self._queue[0][0]
                batch = [event for owner, event in self._queue[:BATCH] if owner is ctx]
            try:
                _post(ctx, batch)
            except Unavailable:
                pause = min(pause * 2, 30.0) if pause else 0.5
                continue
            except RayplaneError as exc:
                # No retry would help. The events are on disk, and the reconciler reads them when the job ends.
                _log.warning("the gateway refuses events %s: %s", [event.id for event in batch], exc)
            pause = 0.0
            done = {event.id for event in batch}
            with self._changed:
                self._queue = [item for item in self._queue if item[1].id not in done]
                self._changed.notify_all()


def _post(ctx: RunContext, batch: list[Event], patience: float = 0.0) -> None:
    body = {"events": [event.model_dump(mode="json") for event in batch]}
    context.call("POST", "/v1/events", body, url=ctx.gateway_url, patience=patience)


def _checked(type_: str, data: dict[str, Any]) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = check_json(json.loads(json.dumps(data, allow_nan=False)))
    except (TypeError, ValueError) as exc:
        raise InvalidData(
            f"An event '{type_}' can't be written as JSON: {exc}.",
            remedy="Report plain numbers, strings, lists and mappings.",
        ) from exc
    return loaded


_poster = _Poster()
