"""Which objects wait for another one to be written, and are not looked at until then. Keeps count; looks at nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from rayplane.gateway.store.changes import Changes


@dataclass(frozen=True)
class Until:
    """What a reconciler answers for an object that can't go on before another one is written."""

    uid: str
    """The object that it waits for."""
    version: int
    """The resource version at which that one was seen."""
    within: float
    """Seconds after which to look all the same."""


@dataclass
class _Row:
    """Those that wait for one object."""

    parked: dict[str, int] = field(default_factory=dict)
    """uid -> the version of the other at which it was seen."""
    listening: ExitStack = field(default_factory=ExitStack)


class Parking:
    """Parked objects by what they wait for. Not thread-safe: its owner holds a lock.

    ``written`` is called with the uid of an object that is waited for at each write of this process, from any thread
    and with no lock held.
    """

    def __init__(self, changes: Changes, written: Callable[[str], None]) -> None:
        self._changes = changes
        self._written = written
        self._rows: dict[str, _Row] = {}
        self._place: dict[str, str] = {}
        """uid of a parked object -> uid of the one that it waits for."""

    def park(self, uid: str, until: Until) -> None:
        """Have the object wait; it waits for one at a time."""
        self.leave(uid)
        row = self._rows.get(until.uid)
        if row is None:
            row = self._rows[until.uid] = _Row()
            row.listening.enter_context(self._changes.listening(until.uid, partial(self._written, until.uid)))
        row.parked[uid] = until.version
        self._place[uid] = until.uid

    def leave(self, uid: str) -> None:
        """The object waits no more; nothing if it did not."""
        other = self._place.pop(uid, None)
        if other is None:
            return
        row = self._rows[other]
        del row.parked[uid]
        if not row.parked:
            row.listening.close()
            del self._rows[other]

    def release(self, other: str, version: int | None = None) -> list[str]:
        """Those that waited for the object, which wait no more; only those that saw it before ``version``, if given."""
        row = self._rows.get(other)
        if row is None:
            return []
        released = [uid for uid, known in row.parked.items() if version is None or known < version]
        for uid in released:
            self.leave(uid)
        return released

    def clear(self) -> None:
        """Let none wait any more."""
        for uid in list(self._place):
            self.leave(uid)
