"""Drive a cluster to its spec: start, repair, restart, suspend, delete; reclaim it when idle; keep its leases."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rayplane.gateway import metrics
from rayplane.gateway.admission import lifetime
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Backend, Capability, ClusterRef, LaunchContext, Observation
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile import launch, renewal
from rayplane.gateway.reconcile.activity import ActivityProbe
from rayplane.gateway.reconcile.idleness import Activity, Verdict, judge, period
from rayplane.gateway.reconcile.leases import entries, lease_id
from rayplane.gateway.reconcile.pace import Pace
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases import job as jobs
from rayplane.gateway.usecases import objects
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.nouns.base import Object, utcnow
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus, Endpoint, Suspension
from rayplane.nouns.job import UNFINISHED
from rayplane.nouns.team import Size, TeamSpec

log = logging.getLogger(__name__)

DRAIN = timedelta(seconds=15)
"""Time that the jobs of a cluster being taken down have to stop."""
START_TIMEOUT = timedelta(seconds=180)
"""Time that a head has to start: it takes 6 s on a quiet host, half a minute on a busy one."""
PATIENCE = timedelta(seconds=60)
"""Time for which a ready cluster may not answer before it counts as failed: a busy host slows its dashboard."""
NOW, HURRY, WATCH = 0.0, 0.5, 2.0
UNDER_WAY, AT_REST = 15.0, 300.0
"""Seconds between two looks where the backend reports every change by itself."""
_FOR_ITS_WORK = 60.0
"""Seconds between two looks at a cluster whose deletion waits for work on it to end."""
_FOR_ROOM = 15.0
"""Seconds between two looks at a cluster that waits for quota or for room on a host."""


@dataclass(frozen=True)
class _Look:
    """One look at a cluster: its object, its team and its backend."""

    obj: Object
    ref: ClusterRef
    spec: ClusterSpec
    status: ClusterStatus
    """The status when the look began."""
    team: Object
    team_spec: TeamSpec
    backend_name: str
    """The backend's name in the team's specs."""
    backend: Backend

    @property
    def size(self) -> Size:
        return size_of(self.team_spec, self.spec.size, team_name=self.ref.team)

    def can(self, capability: Capability) -> bool:
        return capability in self.backend.capabilities

    def wait(self, seconds: float) -> float:
        """The seconds until the next look at an operation of the backend; longer where it reports changes."""
        return max(seconds, UNDER_WAY) if self.can(Capability.WATCH) else seconds


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
        self._wake = wake
        """Called with an object's uid to have the loop look at it."""
        self._clock = clock
        self._starts = Pace()
        self._repairs = Pace()
        self._ask_at: dict[str, datetime] = {}
        """uid -> when to ask Ray again about the cluster's use."""
        self._subscribed: set[str] = set()
        self._lock = threading.Lock()

    def reconcile(self, obj: Object) -> float | None:
        """Observe the cluster once and take the next step towards its spec."""
        look = self._begin(obj)
        self._subscribe(look)
        if obj.metadata.deleted_at is not None:
            return self._delete(look)
        observed = look.backend.clusters.observe(look.ref, look.spec)
        self._record_leases(look.ref, observed)
        if look.spec.suspended:
            return self._keep_suspended(look, observed, "Suspended", "Suspended on request.")[1]
        end, now = clusters.end_of_life(obj, look.spec, look.team_spec, look.backend), self._clock()
        if end is None or look.status.is_over:
            return self._drive_to_running(look, observed)
        if now >= end:  # whatever its phase, and even if it is in use
            return self._mark_suspended(look, Verdict("suspend", "Lifetime", lifetime.ended(end)))
        pauses = (self._drive_to_running(look, observed), max(HURRY, min(AT_REST, (end - now).total_seconds())))
        return min(pause for pause in pauses if pause is not None)

    def _drive_to_running(self, look: _Look, observed: Observation) -> float | None:
        """Take the next step towards a running cluster, or keep it suspended if the platform suspended it."""
        if look.status.suspension is not None:
            return self._hold_suspended(look, observed, look.status.suspension)
        if not look.can(Capability.CREATE) and observed.reason == "Unreachable" and look.status.phase == "Ready":
            # A head that others run, too, only counts as slow until it has not answered for long.
            observed = replace(observed, phase="starting", incarnation=look.status.incarnation)
        if observed.phase == "ready":
            return self._ready(look, observed)
        if observed.phase == "stopping" and observed.reason:
            look.backend.clusters.delete(look.ref)  # its removal failed, and only the reconciler tries again
            return WATCH
        if observed.phase == "stopping":
            return look.wait(HURRY)
        if observed.phase == "starting":
            observed = self._judge_silence(look, observed)
        if observed.phase == "starting":
            return self._starting(look, observed)
        return self._start_head(look, observed)

    def _begin(self, obj: Object) -> _Look:
        spec = ClusterSpec.model_validate(obj.spec)
        status = ClusterStatus.model_validate(obj.status)
        meta = obj.metadata
        ref = ClusterRef(team=meta.team or "", name=meta.name, uid=meta.uid, placed=status.placed)
        team = self._platform.store.get("Team", "", ref.team)
        spec_of_team = team_spec(team)
        backend_name = clusters.backend_of(spec, spec_of_team)
        return _Look(obj, ref, spec, status, team, spec_of_team, backend_name, self._backends(backend_name))

    def _subscribe(self, look: _Look) -> None:
        """Subscribe to the backend's changes before the first look, so that no later change is missed."""
        with self._lock:
            if look.backend_name in self._subscribed or not look.can(Capability.WATCH):
                return
            look.backend.subscribe(self._wake)
            self._subscribed.add(look.backend_name)

    def _ready(self, look: _Look, observed: Observation) -> float:
        uid, generation = look.ref.uid, look.obj.metadata.generation
        self._starts.forget(uid)
        if look.can(Capability.CREATE):
            if observed.drift:
                return min(self._repair(look, observed), self._reclaim(look, observed))
            self._repairs.forget(uid)
            if look.status.observed_generation < generation:
                look.backend.clusters.ensure(look.ref, look.spec, self._launch(look))

        def change(status: ClusterStatus) -> None:
            if status.incarnation != observed.incarnation or status.phase != "Ready":
                status.ready_at = self._clock()
            status.phase, status.incarnation = "Ready", observed.incarnation
            status.endpoint, status.environment = observed.endpoint, observed.environment
            self._set_ready(status, look, True, "Ready", "")

        if look.status.incarnation != observed.incarnation or look.status.phase != "Ready":
            log.info("cluster %s is ready", look.ref, extra={"incarnation": observed.incarnation})
        self._write(look, change)
        pause = AT_REST if look.can(Capability.WATCH) else WATCH
        return min(pause, self._renew(look), self._reclaim(look, observed))

    def _renew(self, look: _Look) -> float:
        """Renew the cluster's secrets, at next to no cost if they are current; the seconds until the next look."""
        lacking = renewal.renew(self._platform, look.backend.clusters, look.ref)
        self._write(look, lambda status: renewal.tell(status, lacking, look.obj.metadata.generation))
        return renewal.SOON if lacking else AT_REST

    def _repair(self, look: _Look, observed: Observation) -> float:
        pause = self._repairs.before(look.ref.uid, self._clock())
        if pause > 0:
            return max(pause, HURRY)
        log.warning("cluster %s drifted and is repaired: %s", look.ref, observed.drift)
        metrics.DRIFT_REPAIRS.labels(look.backend_name).inc()
        look.backend.clusters.ensure(look.ref, look.spec, self._launch(look))
        return WATCH

    def _reclaim(self, look: _Look, observed: Observation) -> float:
        """Suspend the cluster if its lifetime is over or it is idle; the seconds until the next judgement."""
        terms = clusters.terms_of(look.spec, look.team_spec, look.backend)
        now, uid = self._clock(), look.ref.uid
        if not terms.any:
            self._ask_at.pop(uid, None)
            self._report_terms(look, Verdict("keep"), Activity("active"))
            return AT_REST

        def judged(activity: Activity | None) -> Verdict:
            return judge(
                terms,
                activity,
                now=now,
                created_at=look.obj.metadata.created_at or now,
                idle_since=look.status.idle_since,
                kept_until=look.status.kept_until,
                lives_until=look.status.lives_until,
            )

        activity, verdict = None, judged(None)
        due = self._ask_at.get(uid)
        # Ask Ray again before suspending: the cached answer may be stale.
        if terms.idle_timeout is not None and (due is None or now >= due or verdict.reason == "Idle"):
            activity = self._activity.ask(look.ref.team, look.ref.name, observed.endpoint)
            verdict = judged(activity)
            due = self._ask_at[uid] = now + period(terms.idle_timeout)
        if verdict.act == "suspend":
            return self._mark_suspended(look, verdict)
        if terms.idle_timeout is None:
            self._ask_at.pop(uid, None)
            activity, due = Activity("active"), None
        self._report_terms(look, verdict, activity)
        pauses = [pause.total_seconds() for pause in (verdict.again, due - now if due else None) if pause is not None]
        return max(HURRY, min(pauses, default=AT_REST))

    def _report_terms(self, look: _Look, verdict: Verdict, activity: Activity | None) -> None:
        """Report idleness and expiry in the conditions; one that was never true is not added."""
        keep = f"Keep it: rayplane cluster extend {look.ref.name} 2h --team {look.ref.team}"
        generation = look.obj.metadata.generation
        idle, reason, message, ends = verdict.idle_since is not None, "InUse", "", ""
        if verdict.expiring:
            ends = f"Its lifetime ends {_at(verdict.ends_at)}; it is suspended and deleted then. {keep}"
        if idle:
            since, until = _at(verdict.idle_since), _at(verdict.idle_until)
            reason, message = "Unused", f"Unused since {since}; it is suspended {until}. {keep}"
        elif activity is not None and activity.state == "unknown":
            reason, message = "Unknown", f"Its use is unknown: {activity.why}"

        def change(status: ClusterStatus) -> None:
            status.idle_since = verdict.idle_since
            if message or (activity is not None and status.condition("Idle") is not None):
                status.set_condition("Idle", idle, reason, message, generation)
            if ends or status.condition("Expiring") is not None:
                status.set_condition("Expiring", verdict.expiring, "Lifetime", ends, generation)

        self._write(look, change)

    def _mark_suspended(self, look: _Look, verdict: Verdict) -> float:
        """Mark the cluster as suspended by the platform, unless a write or new work came in the meantime."""
        store, uid, now = self._platform.store, look.ref.uid, self._clock()
        assert verdict.reason != ""
        with store.transaction():
            current = store.get_by_uid(uid)
            status = ClusterStatus.model_validate(current.status)
            wanted = (
                current.metadata.generation != look.obj.metadata.generation or current.metadata.deleted_at is not None
            )
            if verdict.reason == "Idle":
                # New work clears idle_since in the transaction that writes it.
                wanted = wanted or status.idle_since != look.status.idle_since
                wanted = wanted or bool(clusters.work_of(look.ref.team, look.ref.name, self._platform))
            if wanted:
                return HURRY
            status.idle_since = status.kept_until = None
            suspension = Suspension(reason=verdict.reason, message=verdict.message, at=now)
            suspension.delete_at = self._delete_at(look, suspension, None)
            status.suspension = suspension
            for type_ in ("Idle", "Expiring"):
                if status.condition(type_) is not None:
                    status.set_condition(type_, False, "Suspended", "", look.obj.metadata.generation)
            store.set_status(uid, status)
            detail = {"reason": verdict.reason, "message": verdict.message}
            store.audit(SYSTEM.name, "suspend", kind="Cluster", team=look.ref.team, name=look.ref.name, detail=detail)
        log.info("cluster %s is suspended by the platform: %s", look.ref, verdict.message)
        metrics.RECLAIMED.labels(verdict.reason).inc()
        self._ask_at.pop(uid, None)
        return NOW

    def _hold_suspended(self, look: _Look, observed: Observation, suspension: Suspension) -> float | None:
        """Keep the cluster suspended until new work resumes it or its deletion is due."""
        store, team, name = self._platform.store, look.ref.team, look.ref.name
        now, message = self._clock(), suspension.message
        delete_at = self._delete_at(look, suspension, look.status.kept_until)
        if delete_at != suspension.delete_at:  # the cluster's terms have changed
            with editing(store, look.ref.uid, ClusterStatus) as status:
                if status.suspension == suspension:
                    status.suspension = suspension.model_copy(update={"delete_at": delete_at})
            return NOW
        work = clusters.work_of(team, name, self._platform)
        if suspension.reason == "Idle" and work:
            with store.transaction():
                lacking = clusters.resume_for_work(store.get_by_uid(look.ref.uid), self._platform)
            if not lacking:
                return NOW
            self._keep_suspended(look, observed, "Quota", f"It is needed by {work}, but: {lacking}")
            return _FOR_ROOM
        if suspension.reason == "Lifetime":
            left = self._stop_jobs(look.ref, why=f"Cluster '{name}' was suspended. {suspension.message}")
            if left and now - suspension.at < DRAIN:
                return HURRY
        if suspension.delete_at is not None and suspension.reason == "Idle":
            message += f" It is deleted {_at(suspension.delete_at)}."
        if suspension.reason == "Lifetime" and work:
            message += f" It is not deleted while {work} is on it."
        down, pause = self._keep_suspended(look, observed, suspension.reason, message)
        if not down or suspension.delete_at is None:
            return pause
        if now < suspension.delete_at:
            return max(HURRY, min(AT_REST, (suspension.delete_at - now).total_seconds()))
        if work:
            return _FOR_ITS_WORK
        with store.transaction():
            current = store.get_by_uid(look.ref.uid)
            changed = ClusterStatus.model_validate(current.status).suspension != suspension
            if changed or current.metadata.generation != look.obj.metadata.generation:
                return HURRY  # a write came in the meantime
            objects.delete("Cluster", team, name, principal=SYSTEM, platform=self._platform)
        log.info("cluster %s is deleted: %s", look.ref, suspension.message)
        return NOW

    def _delete_at(self, look: _Look, suspension: Suspension, kept_until: datetime | None) -> datetime | None:
        """The instant at which a cluster that the platform suspended is deleted; None: it stays."""
        if suspension.reason == "Lifetime":
            return suspension.at
        terms = clusters.terms_of(look.spec, look.team_spec, look.backend)
        return lifetime.deletion(terms, suspension.at, kept_until)

    def _keep_suspended(
        self, look: _Look, observed: Observation, reason: str, message: str
    ) -> tuple[bool, float | None]:
        """Release the cluster's nodes: (true once it has none, seconds until the next look)."""
        if not look.can(Capability.SUSPEND):
            lacking = f"The backend '{look.backend.name}' can't suspend a cluster."
            self._write(look, lambda status: self._set_ready(status, look, False, "Unsupported", lacking))
            return False, None
        has_nodes = any(node.ended_at is None for node in observed.nodes)
        if has_nodes or observed.phase not in ("absent", "suspended"):
            if observed.phase not in ("absent", "suspended", "stopping") or observed.reason:
                look.backend.clusters.suspend(look.ref, look.spec)

            def going(status: ClusterStatus) -> None:
                status.phase, status.endpoint, status.incarnation = "Suspending", None, None
                self._set_ready(status, look, False, reason, f"It is being suspended. {message}")

            self._write(look, going)
            return False, look.wait(HURRY)
        self._starts.forget(look.ref.uid)

        def change(status: ClusterStatus) -> None:
            status.phase, status.endpoint, status.incarnation = "Suspended", None, None
            self._set_ready(status, look, False, reason, message)

        self._write(look, change)
        return True, None

    def _starting(self, look: _Look, observed: Observation) -> float:
        # Drift: its creation was interrupted, or it was changed from outside.
        if look.can(Capability.CREATE) and observed.drift:
            self._repair(look, observed)
        elif look.can(Capability.CREATE) and look.status.observed_generation < look.obj.metadata.generation:
            look.backend.clusters.ensure(look.ref, look.spec, self._launch(look))
        if _is_briefly_silent(look.status, observed):
            message = observed.message or "The Ray head does not answer."
            reason, generation = observed.reason or "NotAnswering", look.obj.metadata.generation
            self._write(look, lambda status: status.set_condition("Reachable", False, reason, message, generation))
            return look.wait(WATCH)

        def change(status: ClusterStatus) -> None:
            status.phase, status.incarnation, status.endpoint = "Starting", observed.incarnation, None
            self._set_ready(status, look, False, "Starting", "The Ray head is starting.")

        self._write(look, change)
        return look.wait(HURRY)

    def _start_head(self, look: _Look, observed: Observation) -> float:
        """Start a head where there is none, or replace a broken one."""
        ref, backend = look.ref, look.backend
        if observed.ended is not None and look.status.incarnation not in (None, observed.ended):
            # Another leader handled this failure: it is not that of the current head.
            backend.clusters.ensure(ref, look.spec, self._launch(look))
            return HURRY
        self._note_failure(look, observed)
        if observed.incarnation is not None and look.can(Capability.CREATE):
            backend.clusters.delete(ref)  # its process runs but does not answer: only a new one will
            return HURRY
        reasons = backend.clusters.preflight(ref, look.spec, look.size)
        if reasons:
            self._pending(look, "Preflight", " ".join(reasons))
            return _FOR_ROOM
        if not look.can(Capability.CREATE):
            return WATCH
        lacking = self._team_lacks(look)
        if lacking:
            self._pending(look, "TeamNotReady", lacking)
            return HURRY
        wait = self._starts.before(ref.uid, self._clock())
        if wait > 0:
            return max(wait, HURRY)
        backend.clusters.ensure(ref, look.spec, self._launch(look))

        def change(status: ClusterStatus) -> None:
            status.phase = "Starting"
            self._set_ready(status, look, False, "Starting", "The Ray head is starting.")

        self._edit(look, change)
        return look.wait(HURRY)

    def _pending(self, look: _Look, reason: str, message: str) -> None:
        def change(status: ClusterStatus) -> None:
            status.phase = "Pending"
            self._set_ready(status, look, False, reason, message)

        self._edit(look, change)

    def _team_lacks(self, look: _Look) -> str:
        """The team's missing part without which its cluster can't start; empty if there is none."""
        return launch.team_lacks(self._platform, look.team, look.backend_name, look.backend, self._wake)

    def _launch(self, look: _Look) -> LaunchContext:
        return launch.context(self._platform, look.ref.team, look.ref.uid, look.size, cluster=look.ref.name)

    def _note_failure(self, look: _Look, observed: Observation) -> None:
        """Record that the head is gone. ``LastFailure`` keeps the reason while the next head starts."""
        lost, reason, message = look.status.incarnation is not None, observed.reason, observed.message
        if observed.phase in ("absent", "suspended"):
            reason = "HeadGone"
            message = f"The Ray head of '{look.ref}' was stopped from outside, with all that it ran."
        failed = observed.phase == "failed" or lost
        if failed and look.status.phase != "Failed":
            log.warning("cluster %s: %s", look.ref, message)

        def change(status: ClusterStatus) -> None:
            status.incarnation = status.endpoint = None
            if failed:
                status.phase = "Failed"
                status.set_condition("LastFailure", True, reason, message, look.obj.metadata.generation)
                self._set_ready(status, look, False, reason, message)

        self._write(look, change)

    def _judge_silence(self, look: _Look, observed: Observation) -> Observation:
        """Take a head that has not answered for too long as failed; until then it is starting, or busy.

        A backend that watches its heads reports failures by itself: there a start may wait for a node, or an image.
        """
        if look.can(Capability.WATCH):
            return observed
        reachable, now = look.status.condition("Reachable"), self._clock()
        if not _is_briefly_silent(look.status, observed):
            since, patience = self._starts.since(look.ref.uid, now), START_TIMEOUT
        elif reachable is None or reachable.status == "True":
            return observed
        else:
            since, patience = reachable.last_transition_time, PATIENCE
        if now - since <= patience:
            return observed
        seconds = patience.total_seconds()
        message = f"The Ray head of '{look.ref}' runs but has not answered for {seconds:g} s. {observed.message}"
        return replace(observed, phase="failed", reason="NotAnswering", message=message.strip())

    def _delete(self, look: _Look) -> float | None:
        ref = look.ref

        def change(status: ClusterStatus) -> None:
            status.phase = "Deleting"
            self._set_ready(status, look, False, "Deleting", "The cluster is being taken down.")

        self._write(look, change)
        deleted_at = look.obj.metadata.deleted_at or self._clock()
        if self._stop_jobs(ref) and self._clock() - deleted_at < DRAIN:
            return HURRY
        if look.can(Capability.CREATE):
            observed = look.backend.clusters.observe(ref, look.spec)
            self._record_leases(ref, observed)
            if observed.phase != "absent" or any(node.ended_at is None for node in observed.nodes):
                look.backend.clusters.delete(ref)
                return look.wait(HURRY)
        self._starts.forget(ref.uid)
        self._repairs.forget(ref.uid)
        self._ask_at.pop(ref.uid, None)
        self._platform.store.remove(ref.uid)
        log.info("cluster %s is gone", ref)
        return None

    def _stop_jobs(self, ref: ClusterRef, *, why: str = "") -> int:
        """Ask every unfinished job on the cluster to stop; their number."""
        left = list(self._platform.store.each("Job", ref.team, phases=UNFINISHED, cluster=ref.name))
        for job in left:
            if not job.spec.get("stop_requested"):
                jobs.stop(ref.team, job.metadata.name, principal=SYSTEM, platform=self._platform, why=why)
        return len(left)

    def _record_leases(self, ref: ClusterRef, observed: Observation) -> None:
        """Bring the ledger's leases in line with the observed nodes, in one transaction; may be repeated."""
        store = self._platform.store
        known = store.leases_of(ref.uid, ids=[lease_id(ref, node) for node in observed.nodes])
        lacking = entries(ref, observed.nodes, known, now=self._clock())
        if not lacking:
            return
        with store.transaction():
            for lease in lacking.opened:
                store.open_lease(lease)
            for id, ended_at in lacking.closed:
                store.close_lease(id, ended_at)

    def _write(self, look: _Look, change: Callable[[ClusterStatus], None]) -> None:
        """Write the status if ``change`` alters it: a cluster at rest writes nothing and takes no write lock."""
        after = look.status.model_copy(deep=True)
        change(after)
        if after != look.status:
            self._edit(look, change)

    def _edit(self, look: _Look, change: Callable[[ClusterStatus], None]) -> None:
        """Write the status as it is stored now, which this look may have changed already."""
        with editing(self._platform.store, look.ref.uid, ClusterStatus) as status:
            change(status)

    def _set_ready(self, status: ClusterStatus, look: _Look, ready: bool, reason: str, message: str) -> None:
        generation = look.obj.metadata.generation
        status.observed_generation = generation
        status.set_condition("Ready", ready, reason, message, generation)
        if ready and status.condition("Reachable") is not None:
            status.set_condition("Reachable", True, "Answering", "", generation)


def _is_briefly_silent(status: ClusterStatus, observed: Observation) -> bool:
    """True if a ready cluster's own head still runs and only does not answer at the moment."""
    return status.phase == "Ready" and observed.incarnation is not None and observed.incarnation == status.incarnation


def _at(instant: datetime | None) -> str:
    return "" if instant is None else lifetime.moment(instant)
