"""Keep the ledger's leases of the nodes of clusters, and of those that a job or a service has for itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rayplane.gateway.backends.base import ClusterRef, JobRef, Node, ObjectRef, ServiceRef
from rayplane.gateway.reconcile.leases import entries, lease_id
from rayplane.gateway.store import Store


def keep(store: Store, ref: ClusterRef | JobRef | ServiceRef, nodes: Sequence[Node], now: datetime) -> None:
    """Bring the ledger's leases in line with the observed nodes, in one transaction; may be repeated."""
    holder = _holder(ref)
    known = store.leases_of(ref.uid, ids=[lease_id(holder, node) for node in nodes])
    lacking = entries(holder, nodes, known, now=now)
    if not lacking:
        return
    with store.transaction():
        for lease in lacking.opened:
            store.open_lease(lease)
        for id, ended_at in lacking.closed:
            store.close_lease(id, ended_at)


def _holder(ref: ClusterRef | JobRef | ServiceRef) -> ObjectRef:
    """The holder as the ledger names it: a cluster by its name, a job or a service with its noun before that."""
    if isinstance(ref, ClusterRef):
        return ref
    noun = "job" if isinstance(ref, JobRef) else "service"
    return ObjectRef(team=ref.team, name=f"{noun}/{ref.name}", uid=ref.uid)
