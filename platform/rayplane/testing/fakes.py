"""Fakes of the ports, in memory, held to the same contract suites as the real adapters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from rayplane.errors import Unsupported
from rayplane.gateway.backends.base import Capability, ClusterRef, Evidence, LaunchContext, Observation, TeamRef
from rayplane.nouns.cluster import ClusterSpec, Endpoint
from rayplane.nouns.environment import Environment
from rayplane.nouns.team import Size, TeamSpec

ENVIRONMENT = Environment(interpreter="local", ray="2.60.0", python="3.11", lock_hash="0" * 64, rayplane="0.1.0")


@dataclass
class _Head:
    launch: LaunchContext
    number: int
    phase: str = "starting"
    message: str = ""


@dataclass
class FakeBackend:
    """A backend without compute. A cluster that is asked for is ready at once, or when the test says so."""

    name: str = "local"
    capabilities: frozenset[Capability] = frozenset(Capability)
    at_once: bool = True
    """Whether a cluster is ready as soon as it was asked for."""
    reasons: list[str] = field(default_factory=list)
    """What preflight answers."""
    facts: dict[ClusterRef, list[Evidence]] = field(default_factory=dict)
    """What evidence answers."""
    teams: dict[TeamRef, TeamSpec] = field(default_factory=dict)
    """The places that were made."""
    _subscribers: list[Callable[[str], None]] = field(default_factory=list)
    _heads: dict[ClusterRef, _Head] = field(default_factory=dict)
    _started: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """The reasons that the test set."""
        return list(self.reasons)

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """Always the same."""
        return ENVIRONMENT

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """What became of the cluster; absent if nobody asked for it."""
        with self._lock:
            head = self._heads.get(ref)
            if head is None:
                return Observation(phase="absent")
            incarnation = f"{ref.uid}-{head.number}"
            if head.phase == "failed":
                return Observation(phase="failed", reason="Died", message=head.message, incarnation=incarnation)
            if head.phase == "starting":
                return Observation(phase="starting", incarnation=incarnation)
            endpoint = Endpoint(
                dashboard_url=f"http://127.0.0.1:{20000 + head.number}",
                client_address=f"ray://127.0.0.1:{30000 + head.number}",
                serve_url=f"http://127.0.0.1:{40000 + head.number}",
                metrics_targets=[f"127.0.0.1:{50000 + head.number}"],
            )
            return Observation(phase="ready", incarnation=incarnation, endpoint=endpoint, environment=ENVIRONMENT)

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Start a head, unless one starts or is there; one that failed is started anew."""
        self._require(Capability.CREATE)
        with self._lock:
            head = self._heads.get(ref)
            if head is None or head.phase == "failed":
                self._started += 1
                self._heads[ref] = _Head(launch, self._started, "ready" if self.at_once else "starting")
        self._tell(ref)

    def suspend(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Forget the head; nothing needs to stay."""
        self._require(Capability.SUSPEND)
        self.delete(ref)

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """What the test set."""
        return list(self.facts.get(ref, ()))

    def ensure_team(self, team: TeamRef, spec: TeamSpec) -> str:
        """Note the team's place; it is there at once."""
        self._require(Capability.TEAM)
        self.teams[team] = spec
        return ""

    def delete_team(self, team: TeamRef) -> str:
        """Forget the team's place; one already gone is success."""
        self._require(Capability.TEAM)
        self.teams.pop(team, None)
        return ""

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Tell of every change from now on."""
        self._require(Capability.WATCH)
        self._subscribers.append(changed)

    def close(self) -> None:
        """Tell of nothing any more."""
        self._subscribers.clear()

    def delete(self, ref: ClusterRef) -> None:
        """Forget the cluster; one already gone is success."""
        with self._lock:
            self._heads.pop(ref, None)
        self._tell(ref)

    def become_ready(self, ref: ClusterRef) -> None:
        """For tests: the cluster's head is up."""
        with self._lock:
            self._heads[ref].phase = "ready"
        self._tell(ref)

    def crash(self, ref: ClusterRef, message: str = "The head died.") -> None:
        """For tests: the cluster's head died."""
        with self._lock:
            self._heads[ref].phase, self._heads[ref].message = "failed", message
        self._tell(ref)

    def launched(self, ref: ClusterRef) -> LaunchContext:
        """For tests: with what the cluster was started."""
        with self._lock:
            return self._heads[ref].launch

    def _require(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            raise Unsupported(f"Backend '{self.name}' lacks '{capability}'.", remedy="Use a backend that declares it.")

    def _tell(self, ref: ClusterRef) -> None:
        for changed in self._subscribers:
            changed(ref.uid)
