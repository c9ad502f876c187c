"""What Kubernetes tells of a cluster, as evidence for ``why``. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.backends.kubernetes.kinds import Object, instant


def evidence(
    cluster: Object | None, pods: Sequence[Object], events: Sequence[Object], quotas: Sequence[Object], operator: object
) -> list[Evidence]:
    """The warnings about a cluster's own objects, newest first."""
    own = {str(obj["metadata"]["uid"]) for obj in [*pods, *([cluster] if cluster else [])]}
    found = [
        _of(event)
        for event in events
        if event.get("type") == "Warning" and (event.get("involvedObject") or {}).get("uid") in own
    ]
    return sorted(found, key=lambda fact: fact.at.timestamp() if fact.at else 0.0, reverse=True)


def _of(event: Object) -> Evidence:
    about = event["involvedObject"]
    at = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
    return Evidence(
        source="event",
        about=f"{str(about.get('kind', '')).lower()}/{about.get('name')}",
        reason=str(event.get("reason")),
        message=str(event.get("message")),
        at=instant(at) if at else None,
        count=int(event.get("count") or 1),
    )
