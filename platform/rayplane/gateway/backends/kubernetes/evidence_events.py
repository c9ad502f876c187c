"""Read Kubernetes' events of one object, in both of the API's formats (core/v1 and events.k8s.io). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Said:
    """One event, possibly repeated."""

    reason: str
    message: str
    at: datetime
    """Time of its last occurrence."""
    count: int
    is_warning: bool
    field: str
    """The part of the object that it concerns, such as ``spec.containers{ray-head}``."""


def said(events: Iterable[Mapping[str, Any]], obj: Mapping[str, Any]) -> list[Said]:
    """The events of an object, newest first, matched by uid: an earlier object of the same name had another."""
    uid = obj["metadata"].get("uid")
    matching = [_read(event) for event in events if _target(event).get("uid") == uid]
    return sorted(matching, key=lambda event: event.at, reverse=True)


def instant(text: str | datetime | None) -> datetime | None:
    """Parse a time of the API, with its zone; None stays None."""
    if text is None or isinstance(text, datetime):
        return text
    return datetime.fromisoformat(text)


def _target(event: Mapping[str, Any]) -> Mapping[str, Any]:
    target: Mapping[str, Any] = event.get("involvedObject") or event.get("regarding") or {}
    return target


def _read(event: Mapping[str, Any]) -> Said:
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp") or event.get("deprecatedLastTimestamp"),
        event.get("eventTime"),
        event.get("firstTimestamp") or event.get("deprecatedFirstTimestamp"),
        event.get("metadata", {}).get("creationTimestamp"),
    )
    at = next((parsed for time in times if (parsed := instant(time)) is not None), datetime.min.replace(tzinfo=UTC))
    return Said(
        reason=str(event.get("reason", "")),
        message=str(event.get("message") or event.get("note") or ""),
        at=at,
        count=int(series.get("count") or event.get("count") or event.get("deprecatedCount") or 1),
        is_warning=event.get("type") == "Warning",
        field=str(_target(event).get("fieldPath") or ""),
    )
