"""Compute the ledger's leases from the nodes that a backend reports: one for each, from its start to its end. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rayplane.gateway.backends.base import Node, ObjectRef
from rayplane.nouns.cluster import Lease


@dataclass(frozen=True)
class Entries:
    """Entries to write; empty if nothing changed."""

    opened: tuple[Lease, ...] = ()
    """Leases to open. One whose node is gone already has its end, and is closed in the same transaction."""
    closed: tuple[tuple[str, datetime], ...] = ()
    """(id, end) of known leases to close."""

    def __bool__(self) -> bool:
        return bool(self.opened or self.closed)


def lease_id(ref: ObjectRef, node: Node) -> str:
    """The id of a node's lease: the same for every gateway and every write."""
    return f"{ref.uid}-{node.id}"


def entries(ref: ObjectRef, nodes: Sequence[Node], known: Iterable[Lease], *, now: datetime) -> Entries:
    """Compute what the ledger lacks. ``known``: the cluster's open leases, and those of ``nodes``.

    A lease whose node is gone ends ``now`` if the backend does not report when the node ended.
    """
    by_id = {lease.id: lease for lease in known}
    by_node = {lease_id(ref, node): node for node in nodes}
    opened = tuple(
        Lease(
            id=id,
            team=ref.team,
            cluster_uid=ref.uid,
            cluster=ref.name,
            cpu=node.cpu,
            memory=node.memory,
            gpu=node.gpu,
            started_at=node.started_at,
            ended_at=node.ended_at,
        )
        for id, node in by_node.items()
        if id not in by_id
    )
    closed = []
    for id, lease in by_id.items():
        node = by_node.get(id)
        if lease.ended_at is not None or (node is not None and node.ended_at is None):
            continue
        closed.append((id, now if node is None or node.ended_at is None else node.ended_at))
    return Entries(opened, tuple(closed))
