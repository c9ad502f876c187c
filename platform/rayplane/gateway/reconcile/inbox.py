"""Read the events that a job left in its folder, whatever else its code put there."""

from __future__ import annotations

from pydantic import ValidationError

from rayplane.errors import InvalidInput, NotFound
from rayplane.nouns.events import Event
from rayplane.storage import layout
from rayplane.storage.root import Storage

MOST = 256 * 2**20
"""Limit in bytes of all of a job's events: they are read into memory, to be sorted by time."""


def read(storage: Storage, team: str, uid: str) -> tuple[list[Event], list[str]]:
    """(a job's events in order of time, the reasons why others are refused)."""
    folder = f"{layout.job(team, uid)}/{layout.EVENTS}"
    events: list[Event] = []
    refused: list[str] = []
    left = MOST
    try:
        names = [name for name in storage.list(folder) if name.endswith(".json")]
    except InvalidInput as exc:
        return [], [str(exc)]
    for name in names:
        try:
            # The size first: reading a huge file just to refuse it takes long, and a job may leave many.
            if storage.size(f"{folder}/{name}") > left or (
                len(data := storage.read_from(f"{folder}/{name}", 0, left + 1)) > left
            ):
                refused.append(f"{name}: a job's events have at most {MOST // 2**20} MiB together")
                continue
            left -= len(data)
            events.append(Event.model_validate_json(data))
        except ValidationError as exc:
            refused.append(f"{name}: not an event, with {exc.error_count()} errors")
        except (NotFound, InvalidInput) as exc:  # a folder, a link or a pipe
            refused.append(f"{name}: not a file: {exc}")
    events.sort(key=lambda event: event.time)
    return events, refused
