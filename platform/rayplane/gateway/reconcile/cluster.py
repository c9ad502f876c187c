"""Make a cluster run as wanted: start, watch, start anew when its head died, suspend, delete; keep its leases."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from rayplane import plugins
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Backend, Capability, ClusterRef, LaunchContext, Observation
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.reconcile.team import credentials_path
from rayplane.gateway.usecases import job as jobs
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.nouns.base import Object, utcnow
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus, Lease
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.team import Size
from rayplane.settings import GatewaySettings, read_secret

log = logging.getLogger(__name__)

DRAIN = timedelta(seconds=15)
"""How long a deleted cluster's jobs may take to stop."""
START_TIMEOUT = timedelta(seconds=180)
"""How long a head may take to start: 6 s on a quiet host, half a minute on a busy one."""
PATIENCE = timedelta(seconds=60)
"""How long a ready cluster may not answer before it is called failed: a busy host makes a dashboard slow."""
WATCH, HURRY = 2.0, 0.5
_LONGEST_PAUSE = 60.0


def launch_environment(ref: ClusterRef, settings: GatewaySettings) -> dict[str, str]:
    """What the head's environment tells drivers and workers: URLs, names and paths of secrets. Pure."""
    env = {
        "RAYPLANE_GATEWAY_URL": settings.url,
        "RAYPLANE_TEAM": ref.team,
        "RAYPLANE_CLUSTER": ref.name,
    }
    if settings.mlflow_url:
        env |= {
            "MLFLOW_TRACKING_URI": settings.mlflow_url,
            "MLFLOW_WORKSPACE": ref.team,
            "MLFLOW_TRACKING_AUTH": plugins.MLFLOW_AUTH_PROVIDER,
            "RAY_TRAIN_CALLBACKS": plugins.TRAIN_CALLBACK,
        }
    return env


class ClusterReconciler:
    """A cluster that was applied and is not suspended is wanted running."""

    kind = "Cluster"

    def __init__(
        self, platform: Platform, backends: Callable[[str], Backend], *, clock: Callable[[], datetime] = utcnow
    ) -> None:
        self._platform = platform
        self._backends = backends
        self._clock = clock
        self._starts: dict[str, tuple[int, datetime]] = {}
        """uid -> (starts in a row that did not end in a ready cluster, when the last one was asked for)."""

    def reconcile(self, obj: Object) -> float | None:
        """Look at the cluster once and do what follows from it."""
        spec = ClusterSpec.model_validate(obj.spec)
        ref = ClusterRef(team=obj.metadata.team or "", name=obj.metadata.name, uid=obj.metadata.uid)
        team = team_spec(self._platform.store.get("Team", "", ref.team))
        backend = self._backends(spec.backend or team.backend)
        if obj.metadata.deleted_at is not None:
            return self._delete(obj, ref, spec, backend)
        size = size_of(team, spec.size, team_name=ref.team)
        seen = backend.observe(ref, spec)
        if spec.suspended:
            return self._suspend(obj, ref, spec, size, backend, seen)
        if seen.phase == "ready":
            return self._ready(obj, ref, size, seen)
        if seen.phase == "stopping" and seen.reason:
            backend.delete(ref)  # its removal failed: nobody but us tries again
            return WATCH
        if seen.phase == "stopping":
            return HURRY
        if seen.phase == "starting":
            seen = self._judge_silence(obj, ref, seen)
        if seen.phase == "starting":
            return self._starting(obj, ref, size, seen)
        return self._down(obj, ref, spec, size, backend, seen)

    def _ready(self, obj: Object, ref: ClusterRef, size: Size, seen: Observation) -> float:
        self._starts.pop(ref.uid, None)
        self._lease(ref, size, seen.incarnation)
        with editing(self._platform.store, ref.uid, ClusterStatus) as status:
            if status.incarnation != seen.incarnation or status.phase != "Ready":
                log.info("cluster %s is ready", ref, extra={"incarnation": seen.incarnation})
                status.ready_at = self._clock()
            status.phase, status.incarnation = "Ready", seen.incarnation
            status.endpoint, status.environment = seen.endpoint, seen.environment
            self._say(status, obj, True, "Ready", "")
        return WATCH

    def _starting(self, obj: Object, ref: ClusterRef, size: Size, seen: Observation) -> float:
        status = ClusterStatus.model_validate(obj.status)
        if _is_blip(status, seen):
            return self._unreachable(obj, ref, seen)
        self._lease(ref, size, seen.incarnation)
        with editing(self._platform.store, ref.uid, ClusterStatus) as status:
            status.phase, status.incarnation, status.endpoint = "Starting", seen.incarnation, None
            self._say(status, obj, False, "Starting", "The Ray head is starting.")
        return HURRY

    def _down(
        self, obj: Object, ref: ClusterRef, spec: ClusterSpec, size: Size, backend: Backend, seen: Observation
    ) -> float:
        """There is no head, or a broken one."""
        status = ClusterStatus.model_validate(obj.status)
        self._lease(ref, size, None)
        self._note_failure(obj, ref, seen, lost=status.incarnation is not None)
        if seen.incarnation is not None and Capability.CREATE in backend.capabilities:
            backend.delete(ref)  # its process runs but does not serve: only a new one will
            return HURRY
        reasons = backend.preflight(ref, spec, size)
        if reasons:
            with editing(self._platform.store, ref.uid, ClusterStatus) as status:
                status.phase = "Pending"
                self._say(status, obj, False, "Preflight", " ".join(reasons))
            return 15.0
        if Capability.CREATE not in backend.capabilities:
            return WATCH
        settings = self._platform.settings
        if settings.mlflow_url and not credentials_path(settings.home_paths, ref.team).exists():
            with editing(self._platform.store, ref.uid, ClusterStatus) as status:
                status.phase = "Pending"
                self._say(status, obj, False, "TeamNotReady", f"Team '{ref.team}' is being onboarded.")
            return HURRY
        wait = self._pause_before_start(ref.uid)
        if wait > 0:
            return wait
        backend.ensure(ref, spec, self._launch(ref, size))
        with editing(self._platform.store, ref.uid, ClusterStatus) as status:
            status.phase = "Starting"
            self._say(status, obj, False, "Starting", "The Ray head is starting.")
        return HURRY

    def _launch(self, ref: ClusterRef, size: Size) -> LaunchContext:
        settings = self._platform.settings
        secrets = {"RAYPLANE_TOKEN_PATH": self._platform.signer.cluster_token(ref.team, ref.uid)}
        credentials = credentials_path(settings.home_paths, ref.team)
        if settings.mlflow_url and credentials.exists():
            secrets["RAYPLANE_MLFLOW_CREDENTIALS"] = read_secret(credentials)
        return LaunchContext(size=size, env=launch_environment(ref, settings), secrets=secrets)

    def _note_failure(self, obj: Object, ref: ClusterRef, seen: Observation, *, lost: bool) -> None:
        """Record that there is no head. Why the last one ended stays readable while the next one starts."""
        reason, message = seen.reason, seen.message
        if seen.phase == "absent":
            reason, message = "HeadGone", f"The Ray head of '{ref}' was stopped from outside, with all that it ran."
        with editing(self._platform.store, ref.uid, ClusterStatus) as status:
            status.incarnation = status.endpoint = None
            if seen.phase == "failed" or lost:
                if status.phase != "Failed":
                    log.warning("cluster %s: %s", ref, message)
                status.phase = "Failed"
                status.set_condition("LastFailure", True, reason, message, obj.metadata.generation)
                self._say(status, obj, False, reason, message)

    def _pause_before_start(self, uid: str) -> float:
        """Seconds to wait before the next start: none at first, then doubling while starts fail in a row."""
        now = self._clock()
        count, last = self._starts.get(uid, (0, now))
        pause = 0.0 if count == 0 else min(_LONGEST_PAUSE, 2.0 ** (count - 1))
        left = pause - (now - last).total_seconds()
        if count and left > 0:
            return max(left, HURRY)
        self._starts[uid] = (count + 1, now)
        return 0.0

    def _unreachable(self, obj: Object, ref: ClusterRef, seen: Observation) -> float:
        with editing(self._platform.store, ref.uid, ClusterStatus) as status:
            message = seen.message or "The Ray head does not answer."
            status.set_condition("Reachable", False, seen.reason or "NotAnswering", message, obj.metadata.generation)
        return WATCH

    def _judge_silence(self, obj: Object, ref: ClusterRef, seen: Observation) -> Observation:
        """A head that runs but does not answer is starting, or busy for a while; after too long it is broken."""
        status = ClusterStatus.model_validate(obj.status)
        reachable = status.condition("Reachable")
        if not _is_blip(status, seen):
            _, since = self._starts.setdefault(ref.uid, (1, self._clock()))
            patience = START_TIMEOUT
        elif reachable is None or reachable.status == "True":
            return seen
        else:
            since, patience = reachable.last_transition_time, PATIENCE
        if self._clock() - since <= patience:
            return seen
        seconds = patience.total_seconds()
        message = f"The Ray head of '{ref}' runs but has not answered for {seconds:g} s. {seen.message}"
        return replace(seen, phase="failed", reason="NotAnswering", message=message.strip())

    def _suspend(
        self, obj: Object, ref: ClusterRef, spec: ClusterSpec, size: Size, backend: Backend, seen: Observation
    ) -> float | None:
        if Capability.SUSPEND not in backend.capabilities:
            with editing(self._platform.store, ref.uid, ClusterStatus) as status:
                message = f"The backend '{backend.name}' can't suspend a cluster."
                self._say(status, obj, False, "Unsupported", message)
            return None
        if seen.phase not in ("absent", "suspended"):
            backend.suspend(ref, spec, self._launch(ref, size))
            return HURRY
        self._close_leases(ref, but=None)
        self._starts.pop(ref.uid, None)
        with editing(self._platform.store, ref.uid, ClusterStatus) as status:
            status.phase, status.endpoint, status.incarnation = "Suspended", None, None
            self._say(status, obj, False, "Suspended", "Suspended on request.")
        return None

    def _delete(self, obj: Object, ref: ClusterRef, spec: ClusterSpec, backend: Backend) -> float | None:
        with editing(self._platform.store, ref.uid, ClusterStatus) as status:
            status.phase = "Deleting"
            self._say(status, obj, False, "Deleting", "The cluster is being taken down.")
        deleted_at = obj.metadata.deleted_at or self._clock()
        if self._stop_jobs(ref) and self._clock() - deleted_at < DRAIN:
            return HURRY
        if Capability.CREATE in backend.capabilities and backend.observe(ref, spec).phase != "absent":
            backend.delete(ref)
            return HURRY
        self._close_leases(ref, but=None)
        self._starts.pop(ref.uid, None)
        self._platform.store.remove(ref.uid)
        log.info("cluster %s is gone", ref)
        return None

    def _stop_jobs(self, ref: ClusterRef) -> int:
        """Ask every job that is left on the cluster to stop; how many there are."""
        left = [
            job
            for job in self._platform.store.each("Job", ref.team)
            if job.spec.get("cluster") == ref.name and job.status.get("phase") not in TERMINAL
        ]
        for job in left:
            if not job.spec.get("stop_requested"):
                jobs.stop(ref.team, job.metadata.name, principal=SYSTEM, platform=self._platform)
        return len(left)

    def _lease(self, ref: ClusterRef, size: Size, incarnation: str | None) -> None:
        """One lease for each head, from when its process is there until it is gone; one ends before the next begins."""
        current = f"{ref.uid}-{incarnation}" if incarnation else None
        now = self._clock()
        if self._close_leases(ref, but=current, now=now) or current is None:
            return
        self._platform.store.open_lease(
            Lease(
                id=current,
                team=ref.team,
                cluster_uid=ref.uid,
                cluster=ref.name,
                cpu=size.cpu,
                memory=size.memory,
                gpu=size.gpu,
                started_at=now,
            )
        )

    def _close_leases(self, ref: ClusterRef, *, but: str | None, now: datetime | None = None) -> bool:
        """End the cluster's open leases except one; whether that one is open."""
        kept = False
        for lease in self._platform.store.leases(ref.team, open_only=True):
            if lease.cluster_uid == ref.uid and lease.id == but:
                kept = True
            elif lease.cluster_uid == ref.uid:
                self._platform.store.close_lease(lease.id, now or self._clock())
        return kept

    def _say(self, status: ClusterStatus, obj: Object, ready: bool, reason: str, message: str) -> None:
        status.observed_generation = obj.metadata.generation
        status.set_condition("Ready", ready, reason, message, obj.metadata.generation)
        if ready and status.condition("Reachable") is not None:
            status.set_condition("Reachable", True, "Answering", "", obj.metadata.generation)


def _is_blip(status: ClusterStatus, seen: Observation) -> bool:
    """Whether a ready cluster's own head still runs and only does not answer just now."""
    return status.phase == "Ready" and seen.incarnation is not None and seen.incarnation == status.incarnation
