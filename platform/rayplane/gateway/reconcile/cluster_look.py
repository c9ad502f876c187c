"""One look at a cluster and the decision that follows from it, as values. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from rayplane.gateway.admission.lifetime import Terms
from rayplane.gateway.backends.base import Capability, ClusterRef
from rayplane.gateway.reconcile.idleness import Verdict
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus, Endpoint
from rayplane.nouns.environment import Environment

NOW, HURRY, WATCH = 0.0, 0.5, 2.0
UNDER_WAY, AT_REST = 15.0, 300.0
"""Seconds between two looks where the backend reports every change by itself."""
FOR_ROOM = 15.0
"""Seconds between two looks at a cluster that waits for quota or for room on a host."""

Ask = Literal["nothing", "ensure", "suspend", "delete"]
"""A request to the backend."""
Tries = Literal["keep", "try", "adopt", "forget"]
"""A change of the count of tries in a row. ``adopt``: count one that began before this process."""
Then = Literal["start", "hold", "renew", "reclaim", "delete", "remove"]
"""A step that follows once the decision is carried out, since it needs more than the look has:
``start`` a head, if nothing forbids it; ``hold`` the cluster suspended, unless work resumes it; ``renew`` its secrets;
``reclaim`` it if it is unused; ``delete`` its object, as its time is over; ``remove`` the object, as all else is gone.
"""


@dataclass(frozen=True)
class ClusterLook:
    """A cluster as the reconciler looks at it: all that a decision depends on, besides the observation and the time."""

    ref: ClusterRef
    generation: int
    spec: ClusterSpec
    status: ClusterStatus
    """The status when the look began."""
    backend: str
    """The backend's own name, for messages."""
    capabilities: frozenset[Capability]
    """The abilities of its backend."""
    created_at: datetime | None = None
    deleted_at: datetime | None = None
    terms: Terms = field(default_factory=Terms)
    ends_at: datetime | None = None
    """The end of its lifetime; None: never."""
    start_wait: float = 0.0
    """Seconds until a head may be started again."""
    start_began: datetime | None = None
    """The begin of the last start; None if it began before this process."""
    repair_wait: float = 0.0
    """Seconds until drift may be repaired again."""

    def can(self, capability: Capability) -> bool:
        """True if its backend has this ability."""
        return capability in self.capabilities

    @property
    def is_current(self) -> bool:
        """True once the backend was asked for this generation of the spec."""
        return self.status.observed_generation >= self.generation

    def wait(self, seconds: float) -> float:
        """The seconds until the next look at an operation of the backend; longer where it reports changes."""
        return max(seconds, UNDER_WAY) if self.can(Capability.WATCH) else seconds


@dataclass(frozen=True)
class Head:
    """The cluster's head in the status."""

    incarnation: str | None = None
    endpoint: Endpoint | None = None


GONE = Head()
"""No head."""


@dataclass(frozen=True)
class Idleness:
    """The cluster's idleness in the status."""

    since: datetime | None


@dataclass(frozen=True)
class Report:
    """A condition to set in the status."""

    type: str
    status: bool
    reason: str
    message: str = ""
    only_known: bool = False
    """True if a condition that the status never had is not added."""


@dataclass(frozen=True)
class Change:
    """A change of a cluster's status. A field that is None or empty leaves its part as it is."""

    phase: str = ""
    head: Head | None = None
    environment: Environment | None = None
    """The environment of a head that is ready: with the phase Ready None is written, too."""
    idleness: Idleness | None = None
    reports: tuple[Report, ...] = ()
    announce: str = ""
    """The log's line about it; a warning if it is a failure."""

    def apply(self, status: ClusterStatus, generation: int, now: datetime) -> None:
        """Make the change in place. A condition Ready tells that this generation of the spec was observed."""
        if self.phase == "Ready":
            if status.phase != "Ready" or (self.head is not None and status.incarnation != self.head.incarnation):
                status.ready_at = now
            status.environment = self.environment
        if self.phase:
            status.phase = self.phase
        if self.head is not None:
            status.incarnation, status.endpoint = self.head.incarnation, self.head.endpoint
        if self.idleness is not None:
            status.idle_since = self.idleness.since
        for report in self.reports:
            if report.type == "Ready":
                status.observed_generation = generation
            if not report.only_known or status.condition(report.type) is not None:
                status.set_condition(report.type, report.status, report.reason, report.message, generation)


@dataclass(frozen=True)
class Decision:
    """The next step of a cluster. It is carried out in the order of its fields."""

    starts: Tries = "keep"
    repairs: Tries = "keep"
    drift: str = ""
    """The drift that the request repairs: it is announced and counted."""
    before: Change | None = None
    """The change of the status that is written before the backend is asked."""
    ask: Ask = "nothing"
    after: Change | None = None
    """The change of the status that is written once the backend has taken the request."""
    suspend: Verdict | None = None
    """The verdict by which the platform itself suspends the cluster from now on."""
    then: tuple[Then, ...] = ()
    again: float | None = None
    """Seconds until the next look, unless a step that follows asks for an earlier one; None: at the next write."""


def soonest(*pauses: float | None) -> float | None:
    """The shortest pause; None if there is none."""
    return min((pause for pause in pauses if pause is not None), default=None)
