"""Operations: slow work that a write asked for. Its state is derived from the object that it concerns."""

from __future__ import annotations

import uuid
from typing import Literal, TypeAlias

from rayplane.errors import NotFound
from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import AnyObject
from rayplane.nouns.base import Status
from rayplane.nouns.events import Operation

GOOD = frozenset({"Ready", "Succeeded", "Suspended"})
ENDED = frozenset({"Succeeded", "Failed", "Stopped"})
_WANTED = {"suspend": "Suspended", "resume": "Ready"}
Verb: TypeAlias = Literal["apply", "delete", "run", "stop", "suspend", "resume", "extend"]


def begin(store: Store, obj: AnyObject, action: Verb) -> Operation:
    """Store a new operation about the object as it is now, and return it with its state."""
    operation = Operation(
        id=uuid.uuid4().hex,
        # A team's own object has no team: a principal that may read the team may read its operations.
        team=obj.metadata.team or obj.metadata.name,
        kind=obj.kind,
        name=obj.metadata.name,
        uid=obj.metadata.uid,
        generation=obj.metadata.generation,
        action=action,
    )
    store.put_operation(operation)
    state, message = judge(operation, obj)
    return operation.model_copy(update={"state": state, "message": message})


def current(store: Store, operation: Operation) -> Operation:
    """The operation with its state judged by its object as it is now."""
    try:
        obj: AnyObject | None = store.get_by_uid(operation.uid)
    except NotFound:
        obj = None
    state, message = judge(operation, obj)
    return operation.model_copy(update={"state": state, "message": message})


def judge(operation: Operation, obj: AnyObject | None) -> tuple[Literal["running", "succeeded", "failed"], str]:
    """(state, message) of an operation whose object is ``obj`` (None: it was removed). Pure."""
    title = f"{operation.kind} '{operation.name}'"
    if operation.action == "delete":
        return ("succeeded", "") if obj is None else ("running", f"{title} is being taken down.")
    if obj is None:
        return "failed", f"{title} was deleted before it was as wanted."
    status = obj.status
    if operation.action == "stop":
        return ("succeeded", "") if status.phase in ENDED else ("running", f"{title} is {status.phase}.")
    if obj.metadata.deleted_at is not None:
        return "failed", f"{title} is being deleted."
    if status.observed_generation < operation.generation:
        return "running", f"{title} has not been looked at yet."
    if operation.action == "extend":
        return "succeeded", ""
    if status.phase in GOOD and status.phase == _WANTED.get(operation.action, status.phase):
        return "succeeded", ""
    if status.phase in ("Failed", "Stopped"):
        return "failed", _reason(obj, status) or f"{title} is {status.phase}."
    return "running", f"{title} is {status.phase}."


def _reason(obj: AnyObject, status: Status) -> str:
    ready = status.condition("Ready")
    return str(obj.status_data.get("message") or (ready.message if ready else ""))
