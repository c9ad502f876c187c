"""Placements of a job's attempts: on a cluster of the team, or each on nodes of its own.

This module has all that differs between the two: what to wait for, how an attempt is observed and begun, and what must
be freed after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from rayplane.errors import Unavailable
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Backend, JobObservation, JobRef, Submission, jobs_of
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile import holdings, launch, renewal
from rayplane.gateway.reconcile.attempts import End, end_of
from rayplane.gateway.reconcile.look import Look
from rayplane.gateway.reconcile.parking import Until
from rayplane.gateway.store.typed import AnyObject, Cluster, Team
from rayplane.gateway.usecases import nodes as own_nodes
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import CLUSTER, TEAM
from rayplane.nouns.cluster import ClusterStatus, Endpoint, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import Attempt

Rays = Callable[[Endpoint], RayRest]
AT_REST, ONBOARDING = 300.0, 30.0
"""Seconds after which a job that waits for a write of its cluster, or of its team, is looked at in any case."""
_ENDED = {"succeeded": "Succeeded", "failed": "Failed", "stopped": "Stopped", "timed_out": "TimedOut"}


@dataclass(frozen=True)
class Readiness:
    """The next attempt may begin now, with this head and environment."""

    incarnation: str | None = None
    """The head that it will run on; None if the head is created with the attempt."""
    environment: Environment | None = None


@dataclass(frozen=True)
class NotNow:
    """The reason why no attempt may begin now. ``never``: none ever will."""

    reason: str
    message: str
    never: bool = False
    until: Until | None = None
    """The object whose write may change that."""


@dataclass(frozen=True)
class AttemptView:
    """The observed state of an attempt that has not ended on record."""

    state: Literal["unasked", "coming", "known", "lost"]
    """``unasked``: it was not submitted (with ``ray``: that Ray may take it now); ``coming``: its nodes are starting;
    ``known``: Ray or the backend has it; ``lost``: its head is gone."""
    reason: str = ""
    message: str = ""
    ray: RayRest | None = None
    running: bool = False
    end: End | None = None
    incarnation: str | None = None
    endpoint: Endpoint | None = None
    """The endpoint of its own Ray, where it has one."""
    environment: Environment | None = None
    not_renewed: str = ""
    """The reason why the newest secrets can't be put there; empty if they were."""


class Placement(Protocol):
    """The placement of one job's attempts during one look."""

    def readiness(self) -> Readiness | NotNow:
        """Readiness for the next attempt, or the reason why it has to wait."""
        ...

    def view(self, attempt: Attempt) -> AttemptView:
        """Observe the attempt. Raises Unavailable while its Ray does not answer."""
        ...

    def make(self, attempt: Attempt, submission: Submission) -> None:
        """Make what the attempt needs before it can be submitted to Ray; idempotent."""
        ...

    def ray(self, attempt: Attempt) -> RayRest | None:
        """The Ray that ran the attempt, for its log; None once it is gone."""
        ...

    def free(self, attempt: Attempt) -> bool:
        """Delete what was made for an attempt that has ended; True once nothing is left."""
        ...


class OnCluster:
    """Placement on a shared cluster of the team, which the cluster's reconciler makes and the job waits for."""

    def __init__(self, look: Look, rays: Rays, *, cluster: Cluster | None) -> None:
        self._look = look
        self._rays = rays
        self._where = f"'{look.team}/{look.spec.cluster}'"
        self._cluster: ClusterStatus | None = None
        self._is_being_deleted = False
        self._until: Until | None = None
        if cluster is None:
            return
        self._until = written_after(cluster, AT_REST)
        self._cluster = cluster.status
        self._is_being_deleted = cluster.metadata.deleted_at is not None

    @classmethod
    def read(cls, look: Look, platform: Platform, rays: Rays) -> OnCluster:
        """Read the job's cluster from the store, for one look."""
        assert look.spec.cluster is not None
        return cls(look, rays, cluster=platform.store.get_or_none(CLUSTER, look.team, look.spec.cluster))

    def readiness(self) -> Readiness | NotNow:
        """Ready once the cluster's head is."""
        cluster = self._cluster
        if cluster is None or self._is_being_deleted:
            return NotNow("ClusterGone", f"Cluster {self._where} was deleted.", never=True)
        if cluster.phase != "Ready" or cluster.endpoint is None or cluster.incarnation is None:
            return NotNow("ClusterNotReady", self._why_not_ready(cluster), until=self._until)
        return Readiness(cluster.incarnation, cluster.environment)

    def view(self, attempt: Attempt) -> AttemptView:
        """Ask the cluster's Ray for the attempt."""
        lost = self._loss(attempt)
        if lost is not None:
            return AttemptView("lost", message=lost)
        assert self._cluster is not None
        assert self._cluster.endpoint is not None
        return _ask_ray(self._rays(self._cluster.endpoint), attempt, timed_out=self._look.timed_out)

    def make(self, attempt: Attempt, submission: Submission) -> None:
        """Do nothing: the cluster is there."""

    def ray(self, attempt: Attempt) -> RayRest | None:
        """The cluster's Ray, while its head is still the attempt's."""
        cluster = self._cluster
        if cluster is None or cluster.endpoint is None or cluster.incarnation != attempt.incarnation:
            return None
        return self._rays(cluster.endpoint)

    def free(self, attempt: Attempt) -> bool:
        """True: nothing was made for the attempt alone."""
        return True

    def _loss(self, attempt: Attempt) -> str | None:
        """The reason why the attempt's head is gone; None while it is there."""
        cluster, where = self._cluster, f"cluster {self._where}"
        if cluster is None:
            return f"The job's {where} was deleted while it ran."
        if cluster.incarnation == attempt.incarnation and cluster.endpoint is not None:
            return None
        failure = cluster.condition("LastFailure")
        if cluster.phase in ("Suspending", "Suspended"):
            return f"The job's {where} was suspended while it ran."
        reason = f" {failure.message}" if failure is not None and failure.message else ""
        return f"The Ray head of {where} died while the job ran.{reason}"

    def _why_not_ready(self, cluster: ClusterStatus) -> str:
        where = f"Cluster {self._where}"
        if cluster.phase == "Suspended" and cluster.suspension is None:
            command = f"rayplane cluster resume {self._look.spec.cluster} --team {self._look.team}"
            return f"{where} was suspended by a person, and only a person resumes it: {command}"
        ready = cluster.condition("Ready")
        reason = ready.message if ready is not None else ""
        return f"{where} is {cluster.phase or 'Pending'}. {reason}".strip()


class OnOwnNodes:
    """Placement on nodes that are made for one attempt and deleted after it; the ledger has a lease for each."""

    def __init__(
        self,
        look: Look,
        nodes: Nodes,
        platform: Platform,
        backends: Callable[[str], Backend],
        rays: Rays,
        *,
        team: Team,
        wake: Callable[[str], None],
    ) -> None:
        self._look = look
        self._nodes = nodes
        self._platform = platform
        self._rays = rays
        self._wake = wake
        self._team = team
        self._backend_name = own_nodes.backend_of(nodes, team.spec)
        self._backend = backends(self._backend_name)

    @classmethod
    def read(
        cls,
        look: Look,
        nodes: Nodes,
        platform: Platform,
        backends: Callable[[str], Backend],
        rays: Rays,
        *,
        wake: Callable[[str], None],
    ) -> OnOwnNodes:
        """Read the job's team from the store, for one look."""
        team = platform.store.get(TEAM, "", look.team)
        return cls(look, nodes, platform, backends, rays, team=team, wake=wake)

    def readiness(self) -> Readiness | NotNow:
        """Ready once the team is set up on the backend and has its credentials."""
        lacking = launch.team_lacks(self._platform, self._team, self._backend_name, self._backend, self._wake)
        if lacking:
            return NotNow("TeamNotReady", lacking, until=written_after(self._team, ONBOARDING))
        return Readiness(environment=self._backend.environment(self._nodes.as_cluster()))

    def view(self, attempt: Attempt) -> AttemptView:
        """Ask the backend for the attempt's nodes, and their Ray for the job."""
        observed = self._observe(attempt)
        if (observed.phase == "absent" and attempt.status == "Pending") or observed.drift:
            return AttemptView("unasked")
        lost = self._loss(attempt, observed)
        if lost is not None:
            return AttemptView("lost", message=lost)
        view = AttemptView("coming", reason=observed.reason or "NodesStarting", message=observed.message)
        if observed.endpoint is not None and observed.phase != "starting":
            view = self._ask_own_ray(attempt, observed.phase, self._rays(observed.endpoint))
        if observed.phase in _ENDED and view.end is None:
            view = AttemptView("known", end=End(_ENDED[observed.phase], observed.message))
        runs, ref = view.state == "known" and view.end is None, self._ref(attempt)
        return replace(
            view,
            not_renewed=renewal.renew(self._platform, jobs_of(self._backend, ref), ref) if runs else "",
            incarnation=observed.incarnation,
            endpoint=observed.endpoint,
            environment=observed.environment,
        )

    def make(self, attempt: Attempt, submission: Submission) -> None:
        """Ask the backend for the attempt's nodes."""
        look, ref = self._look, self._ref(attempt)
        size = size_of(self._team.spec, self._nodes.size, team_name=look.team, where="job.nodes.size")
        context = launch.context(self._platform, look.team, look.uid, size)
        jobs_of(self._backend, ref).ensure(ref, self._nodes, submission, context)

    def ray(self, attempt: Attempt) -> RayRest | None:
        """The Ray of the attempt's own head, while that head is the one that ran it."""
        observed = self._observe(attempt)
        if observed.endpoint is None or self._loss(attempt, observed) is not None:
            return None
        return self._rays(observed.endpoint)

    def free(self, attempt: Attempt) -> bool:
        """Delete the attempt's nodes; True once they are gone and their leases have ended."""
        observed, ref = self._observe(attempt), self._ref(attempt)
        if observed.phase == "absent":
            return True
        if observed.phase != "stopping":
            jobs_of(self._backend, ref).delete(ref)
            observed = self._observe(attempt)
        return observed.phase == "absent"

    def _observe(self, attempt: Attempt) -> JobObservation:
        ref = self._ref(attempt)
        observed = jobs_of(self._backend, ref).observe(ref)
        holdings.keep(self._platform.store, ref, observed.nodes, self._look.now)
        return observed

    def _loss(self, attempt: Attempt, observed: JobObservation) -> str | None:
        """The reason why the attempt's head is gone; None while it is there or starting."""
        if observed.phase in ("absent", "stopping"):
            return "The job's nodes were taken away while it ran."
        another = (
            None not in (attempt.incarnation, observed.incarnation) and attempt.incarnation != observed.incarnation
        )
        if observed.phase == "lost" or another:
            return f"The Ray head of the job's nodes died while it ran. {observed.message}".strip()
        return None

    def _ask_own_ray(self, attempt: Attempt, phase: str, ray: RayRest) -> AttemptView:
        try:
            return _ask_ray(ray, attempt, timed_out=self._look.timed_out)
        except Unavailable:
            if phase not in _ENDED:
                raise
            # The backend knows how it ended: the silence of its head since then does not matter.
            return AttemptView("coming")

    def _ref(self, attempt: Attempt) -> JobRef:
        return JobRef(team=self._look.team, name=self._look.name, uid=self._look.uid, attempt=attempt.number)


def written_after(other: AnyObject, within: float) -> Until:
    """Wait for the next write of the object after this version, or for ``within`` seconds."""
    return Until(other.metadata.uid, other.metadata.resource_version, within)


def _ask_ray(ray: RayRest, attempt: Attempt, *, timed_out: bool) -> AttemptView:
    """Ask Ray for an attempt."""
    info = ray.job(attempt.submission_id)
    if info is None and attempt.status in ("Pending", "Starting"):
        return AttemptView("unasked", ray=ray)
    if info is None:
        return AttemptView("lost", message="Ray does not know the job any more.")
    return AttemptView("known", ray=ray, running=info.get("status") == "RUNNING", end=end_of(info, timed_out=timed_out))
