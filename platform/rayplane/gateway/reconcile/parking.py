"""Keep track of objects that wait for a write of another one; the loop does not look at them until then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from rayplane.gateway.store.changes import Changes


@dataclass(frozen=True)
class Until:
    """A reconciler's answer for an object that can't go on before another one is written."""

    uid: str
    """The object that it waits for."""
    version: int
    """The resource version of that object when it was read."""
    within: float
    """Seconds after which to look in any case."""


@dataclass
class _Row:
    """The objects that wait for one."""

    parked: dict[str, int] = field(default_factory=dict)
    """uid -> the resource version of the other object when this one read it."""
    listening: ExitStack = field(default_factory=ExitStack)


class Parking:
    """Parked objects by the one that they wait for. Not thread-safe: the caller holds a lock.

    ``written`` is called, at each write of this process to an object for which others wait, with its uid: from any
    thread and with no lock held.
    """

    def __init__(self, changes: Changes, written: Callable[[str], None]) -> None:
        self._changes = changes
        self._written = written
        self._rows: dict[str, _Row] = {}
        self._waits_for: dict[str, str] = {}
        """uid of a parked object -> uid of the one for which it waits."""

    def park(self, uid: str, until: Until) -> None:
        """Park the object; it waits for one other at a time."""
        self.leave(uid)
        row = self._rows.get(until.uid)
        if row is None:
            row = self._rows[until.uid] = _Row()
            row.listening.enter_context(self._changes.listening(until.uid, partial(self._written, until.uid)))
        row.parked[uid] = until.version
        self._waits_for[uid] = until.uid

    def leave(self, uid: str) -> None:
        """Unpark the object; does nothing if it is not parked."""
        other = self._waits_for.pop(uid, None)
        if other is None:
            return
        row = self._rows[other]
        del row.parked[uid]
        if not row.parked:
            row.listening.close()
            del self._rows[other]

    def release(self, other: str, version: int | None = None) -> list[str]:
        """Unpark and return the objects that wait for this one; with ``version`` those that read an earlier one."""
        row = self._rows.get(other)
        if row is None:
            return []
        released = [uid for uid, known in row.parked.items() if version is None or known < version]
        for uid in released:
            self.leave(uid)
        return released

    def clear(self) -> None:
        """Unpark all."""
        for uid in list(self._waits_for):
            self.leave(uid)
