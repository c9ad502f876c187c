"""In-memory fakes of the ports; they pass the same contract suites as the real adapters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from rayplane.errors import Unsupported
from rayplane.gateway.backends.base import (
    Capability,
    ClusterRef,
    Evidence,
    LaunchContext,
    Node,
    Observation,
    TeamRef,
)
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import ClusterSpec, Endpoint
from rayplane.nouns.environment import Environment
from rayplane.nouns.team import Size, TeamSpec
from rayplane.testing.fake_dedicated import FakeDedicated, FakeJobs, FakeServices

ENVIRONMENT = Environment(interpreter="local", ray="2.60.0", python="3.11", lock_hash="0" * 64, rayplane="0.1.0")


@dataclass
class _Head:
    launch: LaunchContext
    number: int
    spec: ClusterSpec
    phase: str = "starting"
    message: str = ""
    drift: str = ""


class FakeClusters:
    """The fake backend's port to clusters, over what ``FakeBackend`` holds."""

    def __init__(self, fake: FakeBackend) -> None:
        self._fake = fake

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """Return the reasons that the test set."""
        return list(self._fake.reasons)

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """Return the cluster's state; absent if it was never requested."""
        fake = self._fake
        with fake._lock:
            fake.observed += 1
            nodes = tuple(n for n in fake._nodes.get(ref, ()) if not (fake.forgetful and n.ended_at))
            head = fake._heads.get(ref)
            if head is None:
                return Observation(phase="suspended" if ref in fake._suspended else "absent", nodes=nodes)
            incarnation = f"{ref.uid}-{head.number}"
            if head.phase == "failed":
                return Observation(
                    phase="failed", reason="Died", message=head.message, incarnation=incarnation, nodes=nodes
                )
            if head.phase == "starting":
                return Observation(phase="starting", incarnation=incarnation, nodes=nodes)
            can = fake.capabilities
            endpoint = Endpoint(
                dashboard_url=f"http://127.0.0.1:{20000 + head.number}",
                client_address=f"ray://127.0.0.1:{30000 + head.number}" if Capability.CLIENT in can else None,
                serve_url=f"http://127.0.0.1:{40000 + head.number}" if Capability.SERVE in can else None,
                metrics_targets=[f"127.0.0.1:{50000 + head.number}"],
            )
            return Observation(
                phase="ready",
                incarnation=incarnation,
                endpoint=endpoint,
                environment=ENVIRONMENT,
                nodes=nodes,
                drift=head.drift,
            )

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Start a head unless one starts or runs; replace a failed one. A new head gets the least number of workers."""
        fake = self._fake
        fake._require(Capability.CREATE)
        if spec.workers.max:
            fake._require(Capability.WORKERS)
        with fake._lock:
            head = fake._heads.get(ref)
            if head is None or head.phase == "failed":
                fake._end(ref)
                fake._started += 1
                fake._heads[ref] = _Head(launch, fake._started, spec, "ready" if fake.at_once else "starting")
                fake._begin(ref, "head", launch.size)
                fake._scale(ref, spec.workers.min)
            else:
                head.spec, head.drift = spec, ""
                workers = len(fake._running(ref, "worker"))
                fake._scale(ref, min(max(workers, spec.workers.min), spec.workers.max))
            fake._suspended.discard(ref)
        fake.notify_uid(ref.uid)

    def suspend(self, ref: ClusterRef, spec: ClusterSpec) -> None:
        """End every node; the cluster is observed as suspended from now on."""
        fake = self._fake
        fake._require(Capability.SUSPEND)
        with fake._lock:
            fake._heads.pop(ref, None)
            fake._suspended.add(ref)
            fake._end(ref)
        fake.notify_uid(ref.uid)

    def delete(self, ref: ClusterRef) -> None:
        """Forget the cluster; one already gone is success. The record of its nodes stays."""
        fake = self._fake
        fake._require(Capability.CREATE)
        with fake._lock:
            fake._heads.pop(ref, None)
            fake._suspended.discard(ref)
            fake._end(ref)
        fake.notify_uid(ref.uid)

    def renew(self, ref: ClusterRef, secrets: Mapping[str, str]) -> None:
        """Keep these secrets for the cluster, unless the test says that it can't be done."""
        with self._fake._lock:
            self._fake.keep_secrets(ref, secrets, there=ref in self._fake._heads)

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """Return the evidence that the test set."""
        return list(self._fake.facts.get(ref, ()))


class FakeTeams:
    """The fake backend's port to the places of teams, over what ``FakeBackend`` holds."""

    def __init__(self, fake: FakeBackend) -> None:
        self._fake = fake

    def ensure(self, ref: TeamRef, spec: TeamSpec) -> str:
        """Record the team's place; it is complete at once, unless the test says what is missing."""
        self._fake.places[ref] = spec
        return self._fake.missing

    def delete(self, ref: TeamRef) -> str:
        """Forget the team's place; one already gone is success."""
        if not self._fake.missing:
            self._fake.places.pop(ref, None)
        return self._fake.missing


@dataclass
class FakeBackend(FakeDedicated):
    """A backend without compute. A requested cluster is ready at once, or when the test says so."""

    name: str = "local"
    capabilities: frozenset[Capability] = frozenset(Capability)
    """Its ports follow from them, since tests change them: ``jobs`` is None without JOB."""
    places: dict[TeamRef, TeamSpec] = field(default_factory=dict)
    """Teams whose place was made."""
    clock: Callable[[], datetime] = utcnow
    forgetful: bool = False
    """True if ended nodes are not reported, as by a backend that sees only running nodes."""
    missing: str = ""
    """Answer of the calls for teams: the parts that are missing, or left."""
    cores: int | None = None
    """Answer of ``real_cores``."""
    observed: int = 0
    """Number of observations of clusters."""
    _heads: dict[ClusterRef, _Head] = field(default_factory=dict)
    _suspended: set[ClusterRef] = field(default_factory=set)
    _nodes: dict[ClusterRef, list[Node]] = field(default_factory=dict)
    """All nodes that a cluster ever held."""
    _started: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.clusters = FakeClusters(self)
        self._jobs, self._services, self._teams = FakeJobs(self), FakeServices(self), FakeTeams(self)

    @property
    def jobs(self) -> FakeJobs | None:
        """The port to jobs, if the test gave it JOB."""
        return self._jobs if Capability.JOB in self.capabilities else None

    @property
    def services(self) -> FakeServices | None:
        """The port to services, if the test gave it SERVICE."""
        return self._services if Capability.SERVICE in self.capabilities else None

    @property
    def teams(self) -> FakeTeams | None:
        """The port to the places of teams, if the test gave it TEAM."""
        return self._teams if Capability.TEAM in self.capabilities else None

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """Return the same environment for every cluster."""
        return ENVIRONMENT

    def real_cores(self) -> int | None:
        """Return the number that the test set."""
        return self.cores

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call ``changed`` with the uid at every change from now on."""
        self._require(Capability.WATCH)
        self._subscribers.append(changed)

    def close(self) -> None:
        """Stop calling the subscribers."""
        self._subscribers.clear()

    def become_ready(self, ref: ClusterRef) -> None:
        """For tests: the cluster's head is up."""
        with self._lock:
            self._heads[ref].phase = "ready"
        self.notify_uid(ref.uid)

    def crash(self, ref: ClusterRef, message: str = "The head died.") -> None:
        """For tests: the cluster's head died, and its workers with it."""
        with self._lock:
            self._heads[ref].phase, self._heads[ref].message = "failed", message
            self._end(ref)
        self.notify_uid(ref.uid)

    def scale(self, ref: ClusterRef, workers: int) -> None:
        """For tests: the autoscaler brings the cluster to so many workers."""
        with self._lock:
            self._scale(ref, workers)
        self.notify_uid(ref.uid)

    def disturb(self, ref: ClusterRef, drift: str = "Another user changed it.") -> None:
        """For tests: the cluster drifts from its spec."""
        with self._lock:
            self._heads[ref].drift = drift
        self.notify_uid(ref.uid)

    def disturb_team(self, team: TeamRef) -> None:
        """For tests: the team's place is removed behind the backend's back."""
        del self.places[team]

    def launched(self, ref: ClusterRef) -> LaunchContext:
        """For tests: the launch context that the cluster was started with."""
        with self._lock:
            return self._heads[ref].launch

    def nodes(self, ref: ClusterRef) -> list[Node]:
        """For tests: every node that the cluster ever held, also those that ``observe`` does not report."""
        with self._lock:
            return list(self._nodes.get(ref, ()))

    def _scale(self, ref: ClusterRef, workers: int) -> None:
        running = self._running(ref, "worker")
        for node in running[workers:]:
            self._end(ref, node)
        for _ in range(workers - len(running)):
            self._begin(ref, "worker", self._heads[ref].launch.size)

    def _running(self, ref: ClusterRef, kind: str) -> list[Node]:
        return [n for n in self._nodes.get(ref, ()) if n.kind == kind and n.ended_at is None]

    def _begin(self, ref: ClusterRef, kind: Literal["head", "worker"], size: Size) -> None:
        nodes = self._nodes.setdefault(ref, [])
        nodes.append(
            Node(
                id=f"{kind}-{len(nodes) + 1}",
                kind=kind,
                cpu=size.cpu,
                memory=size.memory,
                gpu=size.gpu,
                started_at=self.clock(),
            )
        )

    def _end(self, ref: ClusterRef, only: Node | None = None) -> None:
        now = self.clock()
        self._nodes[ref] = [
            replace(n, ended_at=now) if n.ended_at is None and only in (None, n) else n
            for n in self._nodes.get(ref, ())
        ]

    def _require(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            raise Unsupported(f"Backend '{self.name}' lacks '{capability}'.", remedy="Use a backend that declares it.")
