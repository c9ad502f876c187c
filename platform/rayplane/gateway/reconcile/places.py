"""Where a job's attempts run: on a cluster of the team, or each on nodes of its own. What differs between the two, and
only that: what to wait for, what is seen of an attempt, how it is begun, and what must be freed after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from rayplane.errors import NotFound, Unavailable
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Backend, JobObservation, JobRef, Submission
from rayplane.gateway.ray_rest import RayRest
from rayplane.gateway.reconcile import holdings, launch, renewal
from rayplane.gateway.reconcile.attempts import End, end_of
from rayplane.gateway.reconcile.look import Look
from rayplane.gateway.reconcile.parking import Until
from rayplane.gateway.usecases import nodes as own_nodes
from rayplane.gateway.usecases.platform import Platform, team_spec
from rayplane.nouns.base import Object
from rayplane.nouns.cluster import ClusterStatus, Endpoint, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import Attempt

Rays = Callable[[Endpoint], RayRest]
AT_REST, ONBOARDING = 300.0, 30.0
"""Seconds after which to look at a job all the same that waits for its cluster to be written, or for its team."""
_ENDED = {"succeeded": "Succeeded", "failed": "Failed", "stopped": "Stopped", "timed_out": "TimedOut"}


@dataclass(frozen=True)
class Ground:
    """Where the next attempt may begin now."""

    incarnation: str | None = None
    """The head that it will be on; None if that comes with the attempt."""
    environment: Environment | None = None


@dataclass(frozen=True)
class NotNow:
    """Why no attempt may begin. ``never``: nor ever will one."""

    reason: str
    message: str
    never: bool = False
    until: Until | None = None
    """The object whose change may end that."""


@dataclass(frozen=True)
class Sight:
    """What is seen of an attempt that has not been seen to end."""

    state: Literal["unasked", "coming", "known", "lost"]
    """``unasked``: nobody was told of it (with ``ray``: Ray was not); ``coming``: its nodes are; ``known``: Ray was
    told of it."""
    reason: str = ""
    message: str = ""
    ray: RayRest | None = None
    running: bool = False
    end: End | None = None
    incarnation: str | None = None
    endpoint: Endpoint | None = None
    """Its own Ray's, where it has one."""
    environment: Environment | None = None
    not_renewed: str = ""
    """Why it can't be given the newest secrets."""


class Place(Protocol):
    """A place for one job, as one look finds it."""

    def ground(self) -> Ground | NotNow:
        """Whether an attempt may begin now."""
        ...

    def sight(self, attempt: Attempt) -> Sight:
        """What is seen of the attempt. Raises Unavailable while its Ray does not answer."""
        ...

    def make(self, attempt: Attempt, submission: Submission) -> None:
        """Make what the attempt needs before Ray can be told of it; done again it changes nothing."""
        ...

    def ray(self, attempt: Attempt) -> RayRest | None:
        """The Ray that ran the attempt, for its log; None once it is gone."""
        ...

    def free(self, attempt: Attempt) -> bool:
        """Give back what was made for an attempt that has ended; whether nothing of it is left."""
        ...


class OnCluster:
    """On a cluster of the team, which others use too: its reconciler makes it, and this one waits for it."""

    def __init__(self, look: Look, platform: Platform, rays: Rays) -> None:
        assert look.spec.cluster is not None
        self._look = look
        self._rays = rays
        self._where = f"'{look.team}/{look.spec.cluster}'"
        self._cluster: ClusterStatus | None = None
        self._going = False
        self._until: Until | None = None
        try:
            found = platform.store.get("Cluster", look.team, look.spec.cluster)
        except NotFound:
            return
        self._until = written_after(found, AT_REST)
        self._cluster = ClusterStatus.model_validate(found.status)
        self._going = found.metadata.deleted_at is not None

    def ground(self) -> Ground | NotNow:
        """The cluster's head, once it is ready."""
        cluster = self._cluster
        if cluster is None or self._going:
            return NotNow("ClusterGone", f"Cluster {self._where} was deleted.", never=True)
        if cluster.phase != "Ready" or cluster.endpoint is None or cluster.incarnation is None:
            return NotNow("ClusterNotReady", self._why_not_ready(cluster), until=self._until)
        return Ground(cluster.incarnation, cluster.environment)

    def sight(self, attempt: Attempt) -> Sight:
        """What the cluster's Ray says of it."""
        lost = self._loss(attempt)
        if lost is not None:
            return Sight("lost", message=lost)
        assert self._cluster is not None
        assert self._cluster.endpoint is not None
        return _asked(self._rays(self._cluster.endpoint), attempt, timed_out=self._look.timed_out)

    def make(self, attempt: Attempt, submission: Submission) -> None:
        """Nothing: the cluster is there."""

    def ray(self, attempt: Attempt) -> RayRest | None:
        """The cluster's, while its head is the attempt's."""
        cluster = self._cluster
        if cluster is None or cluster.endpoint is None or cluster.incarnation != attempt.incarnation:
            return None
        return self._rays(cluster.endpoint)

    def free(self, attempt: Attempt) -> bool:
        """Nothing was made for the attempt alone."""
        return True

    def _loss(self, attempt: Attempt) -> str | None:
        """Why the attempt's head is gone; None while it is there."""
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
            return f"{where} was suspended by a person, who alone resumes it: {command}"
        ready = cluster.condition("Ready")
        reason = ready.message if ready is not None else ""
        return f"{where} is {cluster.phase or 'Pending'}. {reason}".strip()


class OnOwnNodes:
    """On nodes made for one attempt and freed after it; the ledger has a lease for each of them."""

    def __init__(
        self,
        look: Look,
        nodes: Nodes,
        platform: Platform,
        backends: Callable[[str], Backend],
        rays: Rays,
        *,
        wake: Callable[[str], None],
    ) -> None:
        self._look = look
        self._nodes = nodes
        self._platform = platform
        self._rays = rays
        self._wake = wake
        self._team = platform.store.get("Team", "", look.team)
        self._place = own_nodes.backend_of(nodes, team_spec(self._team))
        self._backend = backends(self._place)

    def ground(self) -> Ground | NotNow:
        """Anywhere, once the team has its place and its credentials."""
        lacking = launch.team_lacks(self._platform, self._team, self._place, self._backend, self._wake)
        if lacking:
            return NotNow("TeamNotReady", lacking, until=written_after(self._team, ONBOARDING))
        return Ground(environment=self._backend.environment(self._nodes.as_cluster()))

    def sight(self, attempt: Attempt) -> Sight:
        """What the backend says of its nodes, and its own Ray of the job."""
        seen = self._observe(attempt)
        if (seen.phase == "absent" and attempt.status == "Pending") or seen.drift:
            return Sight("unasked")
        lost = self._loss(attempt, seen)
        if lost is not None:
            return Sight("lost", message=lost)
        sight = Sight("coming", reason=seen.reason or "NodesStarting", message=seen.message)
        if seen.endpoint is not None and seen.phase != "starting":
            sight = self._ask(attempt, seen.phase, self._rays(seen.endpoint))
        if seen.phase in _ENDED and sight.end is None:
            sight = Sight("known", end=End(_ENDED[seen.phase], seen.message))
        lacking = (
            renewal.renew(self._platform, self._backend, self._ref(attempt))
            if sight.state == "known" and sight.end is None
            else ""
        )
        sight = replace(sight, not_renewed=lacking)
        return replace(sight, incarnation=seen.incarnation, endpoint=seen.endpoint, environment=seen.environment)

    def make(self, attempt: Attempt, submission: Submission) -> None:
        """Ask for its nodes."""
        look = self._look
        size = size_of(team_spec(self._team), self._nodes.size, team_name=look.team, where="job.nodes.size")
        context = launch.context(self._platform, look.team, look.uid, size)
        self._backend.ensure_job(self._ref(attempt), self._nodes, submission, context)

    def ray(self, attempt: Attempt) -> RayRest | None:
        """That of its own head, while it is the one that ran it."""
        seen = self._observe(attempt)
        if seen.endpoint is None or self._loss(attempt, seen) is not None:
            return None
        return self._rays(seen.endpoint)

    def free(self, attempt: Attempt) -> bool:
        """Delete its nodes, and wait until they are gone: the ledger then ends."""
        seen = self._observe(attempt)
        if seen.phase == "absent":
            return True
        if seen.phase != "stopping":
            self._backend.delete_job(self._ref(attempt))
            seen = self._observe(attempt)
        return seen.phase == "absent"

    def _observe(self, attempt: Attempt) -> JobObservation:
        ref = self._ref(attempt)
        seen = self._backend.observe_job(ref)
        holdings.keep(self._platform.store, ref, seen.nodes, self._look.now)
        return seen

    def _loss(self, attempt: Attempt, seen: JobObservation) -> str | None:
        """Why the attempt's head is gone; None while it is there, or comes."""
        if seen.phase in ("absent", "stopping"):
            return "The job's nodes were taken away while it ran."
        another = None not in (attempt.incarnation, seen.incarnation) and attempt.incarnation != seen.incarnation
        if seen.phase == "lost" or another:
            return f"The Ray head of the job's nodes died while it ran. {seen.message}".strip()
        return None

    def _ask(self, attempt: Attempt, phase: str, ray: RayRest) -> Sight:
        try:
            return _asked(ray, attempt, timed_out=self._look.timed_out)
        except Unavailable:
            if phase not in _ENDED:
                raise
            return Sight("coming")  # the backend knows how it ended: that the head is silent since changes nothing

    def _ref(self, attempt: Attempt) -> JobRef:
        return JobRef(team=self._look.team, name=self._look.name, uid=self._look.uid, attempt=attempt.number)


def written_after(other: Object, within: float) -> Until:
    """Wait until the object is written after it was seen so, or for ``within`` seconds."""
    return Until(other.metadata.uid, other.metadata.resource_version, within)


def _asked(ray: RayRest, attempt: Attempt, *, timed_out: bool) -> Sight:
    """What Ray says of an attempt."""
    info = ray.job(attempt.submission_id)
    if info is None and attempt.status in ("Pending", "Starting"):
        return Sight("unasked", ray=ray)
    if info is None:
        return Sight("lost", message="Ray does not know the job any more.")
    return Sight("known", ray=ray, running=info.get("status") == "RUNNING", end=end_of(info, timed_out=timed_out))
