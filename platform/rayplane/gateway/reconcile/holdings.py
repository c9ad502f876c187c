"""The ledger's rows of the nodes that a job or a service has for itself: one lease for each node, from when it began to
hold compute until it gave it back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rayplane.gateway.backends.base import JobRef, Node, ServiceRef
from rayplane.gateway.store import Store
from rayplane.nouns.cluster import Lease


def keep(store: Store, ref: JobRef | ServiceRef, nodes: Sequence[Node], now: datetime) -> None:
    """Open a lease for each node that has none, and end those of nodes that are gone. Doing it again changes nothing.

    A node that is no longer spoken of ends now: the backend has forgotten it, so it holds nothing.
    """
    ids = [f"{ref.uid}-{node.id}" for node in nodes]
    known = {lease.id: lease for lease in store.leases_of(ref.uid, ids=ids)}
    for lease_id, node in zip(ids, nodes, strict=True):
        if lease_id not in known:
            store.open_lease(_lease(ref, lease_id, node))
        if node.ended_at is not None and (lease_id not in known or known[lease_id].ended_at is None):
            store.close_lease(lease_id, node.ended_at)
    for lease in known.values():
        if lease.ended_at is None and lease.id not in ids:
            store.close_lease(lease.id, now)


def _lease(ref: JobRef | ServiceRef, lease_id: str, node: Node) -> Lease:
    noun = "job" if isinstance(ref, JobRef) else "service"
    return Lease(
        id=lease_id,
        team=ref.team,
        cluster_uid=ref.uid,
        cluster=f"{noun}/{ref.name}",
        cpu=node.cpu,
        memory=node.memory,
        gpu=node.gpu,
        started_at=node.started_at,
    )
