"""Keep the ledger's leases of the nodes that a job or a service has for itself, as for those of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rayplane.gateway.backends.base import JobRef, Node, ObjectRef, ServiceRef
from rayplane.gateway.reconcile.leases import entries, lease_id
from rayplane.gateway.store import Store


def keep(store: Store, ref: JobRef | ServiceRef, nodes: Sequence[Node], now: datetime) -> None:
    """Bring the ledger's leases in line with the observed nodes, in one transaction; may be repeated."""
    noun = "job" if isinstance(ref, JobRef) else "service"
    holder = ObjectRef(team=ref.team, name=f"{noun}/{ref.name}", uid=ref.uid)
    known = store.leases_of(ref.uid, ids=[lease_id(holder, node) for node in nodes])
    lacking = entries(holder, nodes, known, now=now)
    if not lacking:
        return
    with store.transaction():
        for lease in lacking.opened:
            store.open_lease(lease)
        for id, ended_at in lacking.closed:
            store.close_lease(id, ended_at)
