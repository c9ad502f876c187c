"""Change a part of an object's status without losing what another writer changed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from rayplane.gateway.store import Store
from rayplane.nouns.base import Status

S = TypeVar("S", bound=Status)


@contextmanager
def editing(store: Store, uid: str, model: type[S]) -> Iterator[S]:
    """Yield the object's status as a ``model`` to change in place; write it at the block's end if it changed.

    Holds the write lock: make no slow call inside. Raises NotFound if the object is gone. An error in the block writes
    nothing.
    """
    with store.transaction():
        obj = store.get_by_uid(uid)
        status = obj.status_copy()
        assert isinstance(status, model)
        yield status
        store.set_status(uid, status, current=obj)
