"""Reclaim clusters: judge their use, record their suspension, resume them for work, stop their jobs, delete them.

Module ``cluster_release`` decides how such a cluster gives its compute back; the backend is asked by ``cluster``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from rayplane.gateway import metrics
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.backends.base import ClusterRef, Observation
from rayplane.gateway.reconcile.activity import ActivityProbe
from rayplane.gateway.reconcile.cluster_look import AT_REST, HURRY, NOW, ClusterLook, Decision
from rayplane.gateway.reconcile.cluster_release import Load, deletion_of, hold, report_use
from rayplane.gateway.reconcile.idleness import Activity, Verdict, judge, period
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases import job as jobs
from rayplane.gateway.usecases import objects
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import JOB
from rayplane.nouns.cluster import ClusterStatus, Endpoint, Suspension
from rayplane.nouns.job import UNFINISHED

log = logging.getLogger(__name__)


class Reclaimer:
    """Reclaimer of clusters, for the one reconciler of clusters. One thread at a time calls it for a cluster."""

    def __init__(self, platform: Platform, activity: ActivityProbe, clock: Callable[[], datetime]) -> None:
        self._platform = platform
        self._activity = activity
        self._clock = clock
        self._ask_at: dict[str, datetime] = {}
        """uid -> when to ask Ray again about the cluster's use."""

    def judge(self, look: ClusterLook, endpoint: Endpoint | None) -> Decision:
        """Have a running cluster suspended if its lifetime is over or it is idle; report its use otherwise."""
        terms, now, uid = look.terms, self._clock(), look.ref.uid
        if not terms.any:
            self._ask_at.pop(uid, None)
            return Decision(after=report_use(look, Verdict("keep"), Activity("active")), again=AT_REST)

        def judged(activity: Activity | None) -> Verdict:
            return judge(
                terms,
                activity,
                now=now,
                created_at=look.created_at or now,
                idle_since=look.status.idle_since,
                kept_until=look.status.kept_until,
                lives_until=look.status.lives_until,
            )

        activity, verdict = None, judged(None)
        due = self._ask_at.get(uid)
        # Ask Ray again before suspending: the cached answer may be stale.
        if terms.idle_timeout is not None and (due is None or now >= due or verdict.reason == "Idle"):
            activity = self._activity.ask(look.ref.team, look.ref.name, endpoint)
            verdict = judged(activity)
            due = self._ask_at[uid] = now + period(terms.idle_timeout)
        if verdict.act == "suspend":
            return Decision(suspend=verdict)
        if terms.idle_timeout is None:
            self._ask_at.pop(uid, None)
            activity, due = Activity("active"), None
        pauses = [pause.total_seconds() for pause in (verdict.again, due - now if due else None) if pause is not None]
        return Decision(after=report_use(look, verdict, activity), again=max(HURRY, min(pauses, default=AT_REST)))

    def suspend(self, look: ClusterLook, verdict: Verdict) -> float:
        """Mark the cluster as suspended by the platform, unless a write or new work came in the meantime."""
        store, uid, now = self._platform.store, look.ref.uid, self._clock()
        assert verdict.reason != ""
        with store.transaction():
            current = store.get_by_uid(uid)
            status = current.status_copy()
            wanted = current.metadata.generation != look.generation or current.metadata.deleted_at is not None
            if verdict.reason == "Idle":
                # New work clears idle_since in the transaction that writes it.
                wanted = wanted or status.idle_since != look.status.idle_since
                wanted = wanted or bool(clusters.work_of(look.ref.team, look.ref.name, self._platform))
            if wanted:
                return HURRY
            status.idle_since = status.kept_until = None
            suspension = Suspension(reason=verdict.reason, message=verdict.message, at=now)
            suspension.delete_at = deletion_of(look, suspension, None)
            status.suspension = suspension
            for type_ in ("Idle", "Expiring"):
                if status.condition(type_) is not None:
                    status.set_condition(type_, False, "Suspended", "", look.generation)
            store.set_status(uid, status)
            detail = {"reason": verdict.reason, "message": verdict.message}
            store.audit(SYSTEM.name, "suspend", kind="Cluster", team=look.ref.team, name=look.ref.name, detail=detail)
        log.info("cluster %s is suspended by the platform: %s", look.ref, verdict.message)
        metrics.RECLAIMED.labels(verdict.reason).inc()
        self.forget(uid)
        return NOW

    def hold(self, look: ClusterLook, suspension: Suspension, observation: Observation) -> Decision:
        """Keep the cluster suspended until new work resumes it or its deletion is due."""
        store, team, name = self._platform.store, look.ref.team, look.ref.name
        now, lacking, left = self._clock(), "", 0
        delete_at = deletion_of(look, suspension, look.status.kept_until)
        if delete_at != suspension.delete_at:  # the cluster's terms have changed
            with editing(store, look.ref.uid, ClusterStatus) as status:
                if status.suspension == suspension:
                    status.suspension = suspension.model_copy(update={"delete_at": delete_at})
            return Decision(again=NOW)
        work = clusters.work_of(team, name, self._platform)
        if suspension.reason == "Idle" and work:
            with store.transaction():
                lacking = clusters.resume_for_work(store.get_by_uid(look.ref.uid), self._platform)
            if not lacking:
                return Decision(again=NOW)
        if suspension.reason == "Lifetime":
            left = self.stop_jobs(look.ref, why=f"Cluster '{name}' was suspended. {suspension.message}")
        return hold(look, suspension, observation, Load(work, lacking, left), now)

    def delete(self, look: ClusterLook, suspension: Suspension) -> float:
        """Delete a suspended cluster, unless a write came in the meantime."""
        store = self._platform.store
        with store.transaction():
            current = store.get_by_uid(look.ref.uid)
            changed = current.status.suspension != suspension
            if changed or current.metadata.generation != look.generation:
                return HURRY
            objects.delete("Cluster", look.ref.team, look.ref.name, principal=SYSTEM, platform=self._platform)
        log.info("cluster %s is deleted: %s", look.ref, suspension.message)
        return NOW

    def stop_jobs(self, ref: ClusterRef, *, why: str = "") -> int:
        """Ask every unfinished job on the cluster to stop; their number."""
        left = list(self._platform.store.each(JOB, ref.team, phases=UNFINISHED, cluster=ref.name))
        for job in left:
            if not job.spec.stop_requested:
                jobs.stop(ref.team, job.metadata.name, principal=SYSTEM, platform=self._platform, why=why)
        return len(left)

    def forget(self, uid: str) -> None:
        """Forget when to ask about the use of a cluster that runs no more."""
        self._ask_at.pop(uid, None)
