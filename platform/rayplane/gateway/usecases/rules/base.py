"""The base class of a kind's rules; it serves kinds that have no rules of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.rules import policies
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.nouns.base import Status

Effect: TypeAlias = Callable[[AnyObject], AnyObject]
"""A further write in the same transaction: takes the object as written, returns it as it is afterwards."""


class Rules:
    """The checks and effects of writes of one kind.

    The lists are lazy: a check that depends on an earlier one is left out if that one refuses.
    """

    reconciled = False
    """True if a reconciler brings the objects up and takes them down. If not, an object is Ready once it is stored."""

    def before(self, draft: Draft) -> Iterator[Check]:
        """Checks that need not know the team's other objects. They may ask a backend, so they run in no transaction.

        Every kind has those of the admission policies. They ask no backend, hence a kind's own checks come after them.
        """
        yield from policies.checks(draft)

    def reserve(self, draft: Draft) -> Iterator[Check]:
        """Checks within the transaction that writes, so that two concurrent writes can't both take the last of a quota.

        They ask no backend: other writers wait meanwhile.
        """
        yield from ()

    def written(self, draft: Draft) -> Iterator[Effect]:
        """Effects, in the same transaction, of writing an object that is new or was changed."""
        yield from ()

    def applied(self, draft: Draft) -> Iterator[Effect]:
        """Effects, in the same transaction, of applying an existing object, changed or not."""
        yield from ()

    def first_status(self, draft: Draft) -> Status:
        """The status of a new object."""
        status: Status = draft.noun.status()
        return status

    def asks(self, draft: Draft) -> bool:
        """True if a backend is asked about such an object before it is written."""
        return False

    def check_deletion(self, obj: AnyObject, platform: Platform) -> None:
        """Raise Conflict while another object needs this one."""
