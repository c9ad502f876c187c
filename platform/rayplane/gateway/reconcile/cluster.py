"""Make a cluster run as wanted: start, repair, start anew, suspend, delete; give it back unused; keep its leases."""

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
"""How long the jobs of a cluster that goes may take to stop."""
START_TIMEOUT = timedelta(seconds=180)
"""How long a head may take to start: 6 s on a quiet host, half a minute on a busy one."""
PATIENCE = timedelta(seconds=60)
"""How long a ready cluster may not answer before it is called failed: a busy host makes a dashboard slow."""
NOW, HURRY, WATCH = 0.0, 0.5, 2.0
UNDER_WAY, AT_REST = 15.0, 300.0
"""Seconds between two looks where the backend tells by itself of every change."""
_FOR_ITS_WORK = 60.0
"""Seconds between two looks whether what keeps a cluster from being deleted is gone."""
_FOR_ROOM = 15.0
"""Seconds between two looks whether something that was lacking (quota, room on a host) is there."""


@dataclass(frozen=True)
class _Look:
    """One look at one cluster: what is wanted, by whom, where."""

    obj: Object
    ref: ClusterRef
    spec: ClusterSpec
    status: ClusterStatus
    """As it was when the look began."""
    team: Object
    team_spec: TeamSpec
    place: str
    """The name under which the team knows the backend."""
    backend: Backend

    @property
    def size(self) -> Size:
        return size_of(self.team_spec, self.spec.size, team_name=self.ref.team)

    def can(self, capability: Capability) -> bool:
        return capability in self.backend.capabilities

    def wait(self, seconds: float) -> float:
        """The seconds until the next look at what the backend is doing."""
        return max(seconds, UNDER_WAY) if self.can(Capability.WATCH) else seconds


class ClusterReconciler:
    """A cluster that was applied is wanted running, unless a person, or the platform since it is idle, suspended it."""

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
        """Asks for a look at the object with this uid."""
        self._clock = clock
        self._starts = Pace()
        self._repairs = Pace()
        self._ask_at: dict[str, datetime] = {}
        """uid -> when to ask again whether it is used."""
        self._subscribed: set[str] = set()
        self._lock = threading.Lock()

    def reconcile(self, obj: Object) -> float | None:
        """Look at the cluster once and do what follows from it."""
        look = self._begin(obj)
        self._subscribe(look)
        if obj.metadata.deleted_at is not None:
            return self._delete(look)
        seen = look.backend.observe(look.ref, look.spec)
        self._account(look.ref, seen)
        if look.spec.suspended:
            return self._keep_down(look, seen, "Suspended", "Suspended on request.")[1]
        end, now = clusters.end_of_life(obj, look.spec, look.team_spec, look.backend), self._clock()
        if end is None or look.status.is_over:
            return self._see_to(look, seen)
        if now >= end:  # whatever it does, and however it is
            return self._give_back(look, Verdict("suspend", "Lifetime", lifetime.ended(end)))
        pauses = (self._see_to(look, seen), max(HURRY, min(AT_REST, (end - now).total_seconds())))
        return min(pause for pause in pauses if pause is not None)

    def _see_to(self, look: _Look, seen: Observation) -> float | None:
        """It is to run, unless the platform keeps it suspended."""
        if look.status.suspension is not None:
            return self._given_back(look, seen, look.status.suspension)
        if not look.can(Capability.CREATE) and seen.reason == "Unreachable" and look.status.phase == "Ready":
            # Whose head is not ours is only silent, too, until it has not answered for long.
            seen = replace(seen, phase="starting", incarnation=look.status.incarnation)
        if seen.phase == "ready":
            return self._ready(look, seen)
        if seen.phase == "stopping" and seen.reason:
            look.backend.delete(look.ref)  # its removal failed: nobody but us tries again
            return WATCH
        if seen.phase == "stopping":
            return look.wait(HURRY)
        if seen.phase == "starting":
            seen = self._judge_silence(look, seen)
        if seen.phase == "starting":
            return self._starting(look, seen)
        return self._down(look, seen)

    def _begin(self, obj: Object) -> _Look:
        spec = ClusterSpec.model_validate(obj.spec)
        status = ClusterStatus.model_validate(obj.status)
        meta = obj.metadata
        ref = ClusterRef(team=meta.team or "", name=meta.name, uid=meta.uid, placed=status.placed)
        team = self._platform.store.get("Team", "", ref.team)
        team_is = team_spec(team)
        place = clusters.backend_of(spec, team_is)
        return _Look(obj, ref, spec, status, team, team_is, place, self._backends(place))

    def _subscribe(self, look: _Look) -> None:
        """Be told of changes, before the first look: a change after it is then never missed."""
        with self._lock:
            if look.place in self._subscribed or not look.can(Capability.WATCH):
                return
            look.backend.subscribe(self._wake)
            self._subscribed.add(look.place)

    def _ready(self, look: _Look, seen: Observation) -> float:
        uid, generation = look.ref.uid, look.obj.metadata.generation
        self._starts.forget(uid)
        if look.can(Capability.CREATE):
            if seen.drift:
                return min(self._repair(look, seen), self._reclaim(look, seen))
            self._repairs.forget(uid)
            if look.status.observed_generation < generation:
                look.backend.ensure(look.ref, look.spec, self._launch(look))

        def say(status: ClusterStatus) -> None:
            if status.incarnation != seen.incarnation or status.phase != "Ready":
                status.ready_at = self._clock()
            status.phase, status.incarnation = "Ready", seen.incarnation
            status.endpoint, status.environment = seen.endpoint, seen.environment
            self._say(status, look, True, "Ready", "")

        if look.status.incarnation != seen.incarnation or look.status.phase != "Ready":
            log.info("cluster %s is ready", look.ref, extra={"incarnation": seen.incarnation})
        self._write(look, say)
        pause = AT_REST if look.can(Capability.WATCH) else WATCH
        return min(pause, self._renew(look), self._reclaim(look, seen))

    def _renew(self, look: _Look) -> float:
        """Bring it the newest secrets, which costs next to nothing where it has them; when to look again."""
        lacking = renewal.renew(self._platform, look.backend, look.ref)
        self._write(look, lambda status: renewal.tell(status, lacking, look.obj.metadata.generation))
        return renewal.SOON if lacking else AT_REST

    def _repair(self, look: _Look, seen: Observation) -> float:
        pause = self._repairs.before(look.ref.uid, self._clock())
        if pause > 0:
            return max(pause, HURRY)
        log.warning("cluster %s drifted and is put right: %s", look.ref, seen.drift)
        metrics.DRIFT_REPAIRS.labels(look.place).inc()
        look.backend.ensure(look.ref, look.spec, self._launch(look))
        return WATCH

    def _reclaim(self, look: _Look, seen: Observation) -> float:
        """Give the cluster back if its time is over or nobody uses it; the seconds until that is to be judged again."""
        terms = clusters.terms_of(look.spec, look.team_spec, look.backend)
        now, uid = self._clock(), look.ref.uid
        if not terms.any:
            self._ask_at.pop(uid, None)
            self._say_terms(look, Verdict("keep"), Activity("active"))
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
        # Nobody is taken for idle by what was known a while ago: before it is suspended, it is asked about.
        if terms.idle_timeout is not None and (due is None or now >= due or verdict.reason == "Idle"):
            activity = self._activity.ask(look.ref.team, look.ref.name, seen.endpoint)
            verdict = judged(activity)
            due = self._ask_at[uid] = now + period(terms.idle_timeout)
        if verdict.act == "suspend":
            return self._give_back(look, verdict)
        if terms.idle_timeout is None:
            self._ask_at.pop(uid, None)
            activity, due = Activity("active"), None
        self._say_terms(look, verdict, activity)
        pauses = [pause.total_seconds() for pause in (verdict.again, due - now if due else None) if pause is not None]
        return max(HURRY, min(pauses, default=AT_REST))

    def _say_terms(self, look: _Look, verdict: Verdict, activity: Activity | None) -> None:
        """How long the cluster is kept, in its conditions; those that never were anything but false are left out."""
        keep = f"Keep it: rayplane cluster extend {look.ref.name} 2h --team {look.ref.team}"
        generation = look.obj.metadata.generation
        idle, reason, message, ends = verdict.idle_since is not None, "InUse", "", ""
        if verdict.expiring:
            ends = f"Its lifetime ends {_at(verdict.ends_at)}; it is suspended and deleted then. {keep}"
        if idle:
            since, until = _at(verdict.idle_since), _at(verdict.idle_until)
            reason, message = "Unused", f"Nobody uses it since {since}; it is suspended {until}. {keep}"
        elif activity is not None and activity.state == "unknown":
            reason, message = "Unknown", f"Whether somebody uses it is not known: {activity.why}"

        def say(status: ClusterStatus) -> None:
            status.idle_since = verdict.idle_since
            if message or (activity is not None and status.condition("Idle") is not None):
                status.set_condition("Idle", idle, reason, message, generation)
            if ends or status.condition("Expiring") is not None:
                status.set_condition("Expiring", verdict.expiring, "Lifetime", ends, generation)

        self._write(look, say)

    def _give_back(self, look: _Look, verdict: Verdict) -> float:
        """Decide that the platform suspends the cluster, unless somebody came to want it in the meantime."""
        store, uid, now = self._platform.store, look.ref.uid, self._clock()
        assert verdict.reason != ""
        with store.transaction():
            found = store.get_by_uid(uid)
            status = ClusterStatus.model_validate(found.status)
            wanted = found.metadata.generation != look.obj.metadata.generation or found.metadata.deleted_at is not None
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
        log.info("cluster %s is given back: %s", look.ref, verdict.message)
        metrics.RECLAIMED.labels(verdict.reason).inc()
        self._ask_at.pop(uid, None)
        return NOW

    def _given_back(self, look: _Look, seen: Observation, suspension: Suspension) -> float | None:
        """The platform keeps it suspended: until there is work for it, or it is to be deleted."""
        store, team, name = self._platform.store, look.ref.team, look.ref.name
        now, message = self._clock(), suspension.message
        delete_at = self._delete_at(look, suspension, look.status.kept_until)
        if delete_at != suspension.delete_at:  # its terms are others now
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
            self._keep_down(look, seen, "Quota", f"It is needed by {work}, but: {lacking}")
            return _FOR_ROOM
        if suspension.reason == "Lifetime":
            left = self._stop_jobs(look.ref, why=f"Cluster '{name}' was suspended. {suspension.message}")
            if left and now - suspension.at < DRAIN:
                return HURRY
        if suspension.delete_at is not None and suspension.reason == "Idle":
            message += f" It is deleted {_at(suspension.delete_at)}."
        if suspension.reason == "Lifetime" and work:
            message += f" It is not deleted while {work} is on it."
        down, pause = self._keep_down(look, seen, suspension.reason, message)
        if not down or suspension.delete_at is None:
            return pause
        if now < suspension.delete_at:
            return max(HURRY, min(AT_REST, (suspension.delete_at - now).total_seconds()))
        if work:
            return _FOR_ITS_WORK
        with store.transaction():
            found = store.get_by_uid(look.ref.uid)
            kept = ClusterStatus.model_validate(found.status).suspension != suspension
            if kept or found.metadata.generation != look.obj.metadata.generation:
                return HURRY  # somebody came to want it in the meantime
            objects.delete("Cluster", team, name, principal=SYSTEM, platform=self._platform)
        log.info("cluster %s is deleted: %s", look.ref, suspension.message)
        return NOW

    def _delete_at(self, look: _Look, suspension: Suspension, kept_until: datetime | None) -> datetime | None:
        """When a cluster that the platform suspended is deleted; None: it stays."""
        if suspension.reason == "Lifetime":
            return suspension.at
        terms = clusters.terms_of(look.spec, look.team_spec, look.backend)
        return lifetime.deletion(terms, suspension.at, kept_until)

    def _keep_down(self, look: _Look, seen: Observation, reason: str, message: str) -> tuple[bool, float | None]:
        """See to it that the cluster holds nothing: (whether it does not, seconds until the next look)."""
        if not look.can(Capability.SUSPEND):
            lacking = f"The backend '{look.backend.name}' can't suspend a cluster."
            self._write(look, lambda status: self._say(status, look, False, "Unsupported", lacking))
            return False, None
        held = any(node.ended_at is None for node in seen.nodes)
        if held or seen.phase not in ("absent", "suspended"):
            if seen.phase not in ("absent", "suspended", "stopping") or seen.reason:
                look.backend.suspend(look.ref, look.spec)

            def going(status: ClusterStatus) -> None:
                status.phase, status.endpoint, status.incarnation = "Suspending", None, None
                self._say(status, look, False, reason, f"It is being suspended. {message}")

            self._write(look, going)
            return False, look.wait(HURRY)
        self._starts.forget(look.ref.uid)

        def say(status: ClusterStatus) -> None:
            status.phase, status.endpoint, status.incarnation = "Suspended", None, None
            self._say(status, look, False, reason, message)

        self._write(look, say)
        return True, None

    def _starting(self, look: _Look, seen: Observation) -> float:
        if look.can(Capability.CREATE) and seen.drift:  # it was not made to its end, or somebody changed it
            self._repair(look, seen)
        elif look.can(Capability.CREATE) and look.status.observed_generation < look.obj.metadata.generation:
            look.backend.ensure(look.ref, look.spec, self._launch(look))
        if _is_blip(look.status, seen):
            message = seen.message or "The Ray head does not answer."
            reason, generation = seen.reason or "NotAnswering", look.obj.metadata.generation
            self._write(look, lambda status: status.set_condition("Reachable", False, reason, message, generation))
            return look.wait(WATCH)

        def say(status: ClusterStatus) -> None:
            status.phase, status.incarnation, status.endpoint = "Starting", seen.incarnation, None
            self._say(status, look, False, "Starting", "The Ray head is starting.")

        self._write(look, say)
        return look.wait(HURRY)

    def _down(self, look: _Look, seen: Observation) -> float:
        """There is no head, or a broken one."""
        ref, backend = look.ref, look.backend
        if seen.ended is not None and look.status.incarnation not in (None, seen.ended):
            # Another leader dealt with it: that of which is told is not the head that there is now.
            backend.ensure(ref, look.spec, self._launch(look))
            return HURRY
        self._note_failure(look, seen)
        if seen.incarnation is not None and look.can(Capability.CREATE):
            backend.delete(ref)  # its process runs but does not serve: only a new one will
            return HURRY
        reasons = backend.preflight(ref, look.spec, look.size)
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
        backend.ensure(ref, look.spec, self._launch(look))

        def say(status: ClusterStatus) -> None:
            status.phase = "Starting"
            self._say(status, look, False, "Starting", "The Ray head is starting.")

        self._edit(look, say)
        return look.wait(HURRY)

    def _pending(self, look: _Look, reason: str, message: str) -> None:
        def say(status: ClusterStatus) -> None:
            status.phase = "Pending"
            self._say(status, look, False, reason, message)

        self._edit(look, say)

    def _team_lacks(self, look: _Look) -> str:
        """What the team must get before a cluster of it can start; empty if it has all."""
        return launch.team_lacks(self._platform, look.team, look.place, look.backend, self._wake)

    def _launch(self, look: _Look) -> LaunchContext:
        return launch.context(self._platform, look.ref.team, look.ref.uid, look.size, cluster=look.ref.name)

    def _note_failure(self, look: _Look, seen: Observation) -> None:
        """Record that there is no head. Why the last one ended stays readable while the next one starts."""
        lost, reason, message = look.status.incarnation is not None, seen.reason, seen.message
        if seen.phase in ("absent", "suspended"):
            reason = "HeadGone"
            message = f"The Ray head of '{look.ref}' was stopped from outside, with all that it ran."
        failed = seen.phase == "failed" or lost
        if failed and look.status.phase != "Failed":
            log.warning("cluster %s: %s", look.ref, message)

        def say(status: ClusterStatus) -> None:
            status.incarnation = status.endpoint = None
            if failed:
                status.phase = "Failed"
                status.set_condition("LastFailure", True, reason, message, look.obj.metadata.generation)
                self._say(status, look, False, reason, message)

        self._write(look, say)

    def _judge_silence(self, look: _Look, seen: Observation) -> Observation:
        """A head that runs but does not answer is starting, or busy for a while; after too long it is broken.

        Where the backend watches over its heads it is for it to say so: a start may wait for a node, or an image.
        """
        if look.can(Capability.WATCH):
            return seen
        reachable, now = look.status.condition("Reachable"), self._clock()
        if not _is_blip(look.status, seen):
            since, patience = self._starts.since(look.ref.uid, now), START_TIMEOUT
        elif reachable is None or reachable.status == "True":
            return seen
        else:
            since, patience = reachable.last_transition_time, PATIENCE
        if now - since <= patience:
            return seen
        seconds = patience.total_seconds()
        message = f"The Ray head of '{look.ref}' runs but has not answered for {seconds:g} s. {seen.message}"
        return replace(seen, phase="failed", reason="NotAnswering", message=message.strip())

    def _delete(self, look: _Look) -> float | None:
        ref = look.ref

        def say(status: ClusterStatus) -> None:
            status.phase = "Deleting"
            self._say(status, look, False, "Deleting", "The cluster is being taken down.")

        self._write(look, say)
        deleted_at = look.obj.metadata.deleted_at or self._clock()
        if self._stop_jobs(ref) and self._clock() - deleted_at < DRAIN:
            return HURRY
        if look.can(Capability.CREATE):
            seen = look.backend.observe(ref, look.spec)
            self._account(ref, seen)
            if seen.phase != "absent" or any(node.ended_at is None for node in seen.nodes):
                look.backend.delete(ref)
                return look.wait(HURRY)
        self._starts.forget(ref.uid)
        self._repairs.forget(ref.uid)
        self._ask_at.pop(ref.uid, None)
        self._platform.store.remove(ref.uid)
        log.info("cluster %s is gone", ref)
        return None

    def _stop_jobs(self, ref: ClusterRef, *, why: str = "") -> int:
        """Ask every job that is left on the cluster to stop; how many there are."""
        left = list(self._platform.store.each("Job", ref.team, phases=UNFINISHED, cluster=ref.name))
        for job in left:
            if not job.spec.get("stop_requested"):
                jobs.stop(ref.team, job.metadata.name, principal=SYSTEM, platform=self._platform, why=why)
        return len(left)

    def _account(self, ref: ClusterRef, seen: Observation) -> None:
        """Bring the ledger to what is seen. All of it is written at once, and may be written again."""
        store = self._platform.store
        known = store.leases_of(ref.uid, ids=[lease_id(ref, node) for node in seen.nodes])
        lacking = entries(ref, seen.nodes, known, now=self._clock())
        if not lacking:
            return
        with store.transaction():
            for lease in lacking.opened:
                store.open_lease(lease)
            for id, ended_at in lacking.closed:
                store.close_lease(id, ended_at)

    def _write(self, look: _Look, change: Callable[[ClusterStatus], None]) -> None:
        """Change the status, if that changes anything: a cluster at rest writes nothing, and takes no writer's turn."""
        after = look.status.model_copy(deep=True)
        change(after)
        if after != look.status:
            self._edit(look, change)

    def _edit(self, look: _Look, change: Callable[[ClusterStatus], None]) -> None:
        """Change the status, though this look may have changed it before."""
        with editing(self._platform.store, look.ref.uid, ClusterStatus) as status:
            change(status)

    def _say(self, status: ClusterStatus, look: _Look, ready: bool, reason: str, message: str) -> None:
        generation = look.obj.metadata.generation
        status.observed_generation = generation
        status.set_condition("Ready", ready, reason, message, generation)
        if ready and status.condition("Reachable") is not None:
            status.set_condition("Reachable", True, "Answering", "", generation)


def _is_blip(status: ClusterStatus, seen: Observation) -> bool:
    """Whether a ready cluster's own head still runs and only does not answer just now."""
    return status.phase == "Ready" and seen.incarnation is not None and seen.incarnation == status.incarnation


def _at(instant: datetime | None) -> str:
    return "" if instant is None else lifetime.moment(instant)
