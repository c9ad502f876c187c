"""Drive a cluster to its spec: read a look at it, carry out the decision that follows, keep its leases and secrets.

Module ``cluster_decision`` decides, ``cluster_reclaim`` gives back what is unused or over; this one asks the backend.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from rayplane.gateway import metrics
from rayplane.gateway.admission import lifetime
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Backend, Capability, ClusterRef, LaunchContext, Observation
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile import holdings, launch, renewal
from rayplane.gateway.reconcile.activity import ActivityProbe
from rayplane.gateway.reconcile.cluster_decision import Obstacles, decide, start
from rayplane.gateway.reconcile.cluster_look import (
    AT_REST,
    HURRY,
    Ask,
    Change,
    ClusterLook,
    Decision,
    Then,
    Tries,
    soonest,
)
from rayplane.gateway.reconcile.cluster_reclaim import Reclaimer
from rayplane.gateway.reconcile.cluster_release import DELETING, DRAIN
from rayplane.gateway.reconcile.pace import Pace
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.store.typed import Cluster, Team
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import TEAM
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import ClusterStatus, Endpoint
from rayplane.nouns.team import Size

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Cluster:
    """A cluster during one look: what decisions depend on, and the team and the backend that carry them out."""

    look: ClusterLook
    team: Team
    backend_name: str
    """The backend's name in the team's specs."""
    backend: Backend

    @property
    def ref(self) -> ClusterRef:
        return self.look.ref

    @property
    def size(self) -> Size:
        return size_of(self.team.spec, self.look.spec.size, team_name=self.ref.team)


class ClusterReconciler:
    """Reconciler of clusters: each is to run unless a user suspended it, or the platform did because it was idle."""

    kind = "Cluster"

    def __init__(
        self,
        platform: Platform,
        backends: Callable[[str], Backend],
        rays: Callable[[Endpoint], RayRest],
        *,
        wake: Callable[[str], None] = lambda uid: None,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._platform = platform
        self._backends = backends
        self._activity = ActivityProbe(platform, rays)
        self._reclaimer = Reclaimer(platform, self._activity, clock)
        self._wake = wake
        """Called with an object's uid to have the loop look at it."""
        self._clock = clock
        self._starts = Pace()
        self._repairs = Pace()
        self._subscribed: set[str] = set()
        self._lock = threading.Lock()

    def reconcile(self, obj: Cluster) -> float | None:
        """Observe the cluster once and take the next step towards its spec."""
        cluster = self._begin(obj)
        self._subscribe(cluster)
        if cluster.look.deleted_at is not None:
            return self._take_down(cluster, cluster.look.deleted_at)
        observation = self._observe(cluster)
        return self._carry_out(cluster, observation, decide(cluster.look, observation, self._clock()))

    def _begin(self, obj: Cluster) -> _Cluster:
        """Read the look at the cluster."""
        spec, status, meta, now = obj.spec, obj.status, obj.metadata, self._clock()
        ref = ClusterRef(team=obj.team, name=meta.name, uid=meta.uid, placed=status.placed)
        team = self._platform.store.get(TEAM, "", ref.team)
        backend_name = clusters.backend_of(spec, team.spec)
        backend = self._backends(backend_name)
        terms = clusters.terms_of(spec, team.spec, backend)
        look = ClusterLook(
            ref=ref,
            generation=meta.generation,
            spec=spec,
            status=status,
            backend=backend.name,
            capabilities=backend.capabilities,
            created_at=meta.created_at,
            deleted_at=meta.deleted_at,
            terms=terms,
            ends_at=lifetime.end_of_life(terms, meta.created_at, status.lives_until),
            start_wait=self._starts.wait(ref.uid, now),
            start_began=self._starts.began(ref.uid),
            repair_wait=self._repairs.wait(ref.uid, now),
        )
        return _Cluster(look, team, backend_name, backend)

    def _subscribe(self, cluster: _Cluster) -> None:
        """Subscribe to the backend's changes before the first look, so that no later change is missed."""
        with self._lock:
            if cluster.backend_name in self._subscribed or not cluster.look.can(Capability.WATCH):
                return
            cluster.backend.subscribe(self._wake)
            self._subscribed.add(cluster.backend_name)

    def _observe(self, cluster: _Cluster) -> Observation:
        observation = cluster.backend.clusters.observe(cluster.ref, cluster.look.spec)
        holdings.keep(self._platform.store, cluster.ref, observation.nodes, self._clock())
        return observation

    def _take_down(self, cluster: _Cluster, deleted_at: datetime) -> float | None:
        """Stop the jobs of a deleted cluster, then release its compute and remove its object."""
        self._write(cluster, DELETING)
        if self._reclaimer.stop_jobs(cluster.ref) and self._clock() - deleted_at < DRAIN:
            return HURRY
        observation = Observation("absent")
        if cluster.look.can(Capability.CREATE):
            observation = self._observe(cluster)
        return self._carry_out(cluster, observation, decide(cluster.look, observation, self._clock()))

    def _carry_out(self, cluster: _Cluster, observation: Observation, decision: Decision) -> float | None:
        """Carry out a decision and what follows from it; the seconds until the next look."""
        self._prepare(cluster, decision)
        if decision.before is not None:
            self._write(cluster, decision.before)
        self._ask(cluster, decision.ask)
        if decision.after is not None:
            self._write(cluster, decision.after)
        pauses = [decision.again]
        if decision.suspend is not None:
            pauses.append(self._reclaimer.suspend(cluster.look, decision.suspend))
        pauses += [self._go_on(cluster, observation, step) for step in decision.then]
        return soonest(*pauses)

    def _go_on(self, cluster: _Cluster, observation: Observation, step: Then) -> float | None:
        """Take a step that follows from a decision; the seconds until the next look."""
        look, suspension = cluster.look, cluster.look.status.suspension
        if step == "start":
            return self._start(cluster)
        if step == "renew":
            return self._renew(cluster)
        if step == "reclaim":
            return self._carry_out(cluster, observation, self._reclaimer.judge(look, observation.endpoint))
        if step == "remove":
            self._remove(cluster)
            return None
        assert suspension is not None
        if step == "hold":
            return self._carry_out(cluster, observation, self._reclaimer.hold(look, suspension, observation))
        return self._reclaimer.delete(look, suspension)

    def _prepare(self, cluster: _Cluster, decision: Decision) -> None:
        """Count the decision's tries, and announce a repair."""
        self._count(self._starts, cluster.ref.uid, decision.starts)
        self._count(self._repairs, cluster.ref.uid, decision.repairs)
        if decision.drift:
            log.warning("cluster %s drifted and is repaired: %s", cluster.ref, decision.drift)
            metrics.DRIFT_REPAIRS.labels(cluster.backend_name).inc()

    def _count(self, pace: Pace, uid: str, tries: Tries) -> None:
        if tries == "try":
            pace.begin(uid, self._clock())
        elif tries == "adopt":
            pace.adopt(uid, self._clock())
        elif tries == "forget":
            pace.forget(uid)

    def _ask(self, cluster: _Cluster, ask: Ask) -> None:
        """Ask the backend for what was decided; returns at once."""
        if ask == "ensure":
            cluster.backend.clusters.ensure(cluster.ref, cluster.look.spec, self._launch(cluster))
        elif ask == "suspend":
            cluster.backend.clusters.suspend(cluster.ref, cluster.look.spec)
        elif ask == "delete":
            cluster.backend.clusters.delete(cluster.ref)

    def _start(self, cluster: _Cluster) -> float | None:
        """Start a head, unless the backend or the team lacks what it needs."""
        decision = start(cluster.look, self._obstacles(cluster))
        self._prepare(cluster, decision)
        self._ask(cluster, decision.ask)
        if decision.after is not None:
            self._edit(cluster, partial(self._apply, cluster, decision.after))
        return decision.again

    def _obstacles(self, cluster: _Cluster) -> Obstacles:
        reasons = cluster.backend.clusters.preflight(cluster.ref, cluster.look.spec, cluster.size)
        if reasons or not cluster.look.can(Capability.CREATE):
            return Obstacles(preflight=tuple(reasons))
        lacking = launch.team_lacks(self._platform, cluster.team, cluster.backend_name, cluster.backend, self._wake)
        return Obstacles(team=lacking)

    def _launch(self, cluster: _Cluster) -> LaunchContext:
        ref = cluster.ref
        return launch.context(self._platform, ref.team, ref.uid, cluster.size, cluster=ref.name)

    def _renew(self, cluster: _Cluster) -> float:
        """Renew the cluster's secrets, at next to no cost if they are current; the seconds until the next look."""
        lacking = renewal.renew(self._platform, cluster.backend.clusters, cluster.ref)
        generation = cluster.look.generation
        self._edit_if_new(cluster, lambda status: renewal.tell(status, lacking, generation))
        return renewal.SOON if lacking else AT_REST

    def _remove(self, cluster: _Cluster) -> None:
        self._reclaimer.forget(cluster.ref.uid)
        self._platform.store.remove(cluster.ref.uid)
        log.info("cluster %s is gone", cluster.ref)

    def _write(self, cluster: _Cluster, change: Change) -> None:
        """Announce a change of the status and write it if it alters it."""
        if change.announce and change.phase == "Failed":
            log.warning("%s", change.announce)
        elif change.announce:
            log.info("%s", change.announce, extra={"incarnation": change.head.incarnation if change.head else None})
        self._edit_if_new(cluster, partial(self._apply, cluster, change))

    def _apply(self, cluster: _Cluster, change: Change, status: ClusterStatus) -> None:
        change.apply(status, cluster.look.generation, self._clock())

    def _edit_if_new(self, cluster: _Cluster, edit: Callable[[ClusterStatus], None]) -> None:
        """Write the status if the edit alters it: a cluster at rest writes nothing and takes no write lock."""
        after = cluster.look.status.model_copy(deep=True)
        edit(after)
        if after != cluster.look.status:
            self._edit(cluster, edit)

    def _edit(self, cluster: _Cluster, edit: Callable[[ClusterStatus], None]) -> None:
        """Write the status as it is stored now, which this look may have changed already."""
        with editing(self._platform.store, cluster.ref.uid, ClusterStatus) as status:
            edit(status)
