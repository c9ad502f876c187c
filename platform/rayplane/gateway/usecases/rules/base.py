"""The rules of a kind that has none of its own, and what each kind may add."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.nouns.base import Object, Status

Effect: TypeAlias = Callable[[Object], Object]
"""Something that a write brings about beside itself: takes the object as written, gives it as it is then."""


class Rules:
    """Each list is lazy. A check that needs what an earlier one met is left out where that one refuses."""

    reconciled = False
    """Whether a reconciler makes the objects so and takes them down. Else an object is Ready once it is stored."""

    def before(self, draft: Draft) -> Iterator[Check]:
        """What must be so whatever else the team has. May ask a backend, hence outside of any transaction."""
        yield from ()

    def reserve(self, draft: Draft) -> Iterator[Check]:
        """What must be so in the transaction that writes, so that two at once can't both take the last of it.

        Asks no backend: others wait for their turn to write.
        """
        yield from ()

    def written(self, draft: Draft) -> Iterator[Effect]:
        """What follows from the write of an object that is new or was changed, in the same transaction."""
        yield from ()

    def applied(self, draft: Draft) -> Iterator[Effect]:
        """What follows from the write of an object that was there, changed or not, in the same transaction."""
        yield from ()

    def first_status(self, draft: Draft) -> Status:
        """The status of an object that is made."""
        status: Status = draft.noun.status()
        return status

    def asks(self, draft: Draft) -> bool:
        """Whether a backend is asked about such an object before it is written."""
        return False

    def check_deletion(self, obj: Object, platform: Platform) -> None:
        """Raise Conflict while something needs the object."""
