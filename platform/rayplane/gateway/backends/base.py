"""The port to compute backends: ``Backend`` for the reconciler, ``Reader`` for all other code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, NoReturn, Protocol, runtime_checkable

from rayplane.errors import Unsupported
from rayplane.nouns.cluster import ClusterSpec, Endpoint, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import JobSpec, Resources
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import Size, TeamSpec


class Capability(StrEnum):
    """An ability that a backend may have; calls for a missing one raise Unsupported."""

    CREATE = "create"
    """Makes and deletes clusters."""
    SUSPEND = "suspend"
    """Releases a cluster's compute and resumes it later."""
    SERVE = "serve"
    """Its clusters serve models over HTTP."""
    CLIENT = "client"
    """Its clusters take Ray clients."""
    WORKERS = "workers"
    """Its clusters have worker nodes, autoscaled between a minimum and a maximum."""
    WATCH = "watch"
    """It reports which cluster changed, so that the reconciler need not look often at a cluster at rest."""
    TEAM = "team"
    """It has a place of its own for each team, such as a namespace or a Unix user."""
    JOB = "job"
    """It runs a job on nodes of the job's own."""
    SERVICE = "service"
    """It serves a service from nodes of the service's own."""


@dataclass(frozen=True)
class ClusterRef:
    """Identity of a cluster. The uid distinguishes a recreated cluster from its predecessor."""

    team: str
    name: str
    uid: str
    placed: bool = field(default=False, compare=False)
    """True if an admin of the platform chose the address at which it runs."""

    def __str__(self) -> str:
        return f"{self.team}/{self.name}"


@dataclass(frozen=True)
class TeamRef:
    """Identity of a team. The uid distinguishes a recreated team from its predecessor."""

    name: str
    uid: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class JobRef:
    """Identity of an attempt of a job with nodes of its own."""

    team: str
    name: str
    uid: str
    attempt: int

    @property
    def submission_id(self) -> str:
        """The id under which Ray knows the attempt."""
        return f"{self.uid}-{self.attempt}"

    def __str__(self) -> str:
        return f"{self.team}/{self.name}"


@dataclass(frozen=True)
class ServiceRef:
    """Identity of a service with nodes of its own. The uid distinguishes a recreated service from its predecessor."""

    team: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.team}/{self.name}"


@dataclass(frozen=True)
class Submission:
    """A job's entrypoint as it is submitted to Ray, under the id of its attempt."""

    entrypoint: str
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    """Resources that the entrypoint's own process reserves."""
    timeout: float | None = None
    """Seconds after which the reconciler stops the attempt; the backend ends it somewhat later if it still runs."""


RAY_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray 2.60's new Parquet reader waits for tens of seconds on small files.
        "RAY_DATA_USE_DATASOURCE_V2": "0",
        # The server of each Ray client has 30 s to start by default, which is little on a busy host.
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",
        # With gRPC's fork handlers a child that is forked while other threads are within gRPC may crash before its
        # exec: a Ray client then fails with "Starting Ray client server failed".
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        # Ray Train takes one report of a worker per poll, and polls every 2 s by default: a script that reports each
        # round would wait for that.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        "PYTHONUNBUFFERED": "1",
    }
)
"""Environment of every Ray that a backend starts, hence of its drivers and workers."""


@dataclass(frozen=True)
class LaunchContext:
    """Size, environment and secrets for a new cluster, or for the nodes of a job or a service."""

    size: Size
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of every node; never a secret."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Name of an environment variable -> secret text. The backend keeps the text where only the cluster can read it (a
    0600 file, a mounted Secret) and gives the variable the *path* that the cluster's processes find it at."""


@dataclass(frozen=True)
class Node:
    """A Ray node that a cluster has, or had until recently."""

    id: str
    """Unique; never used again."""
    kind: Literal["head", "worker"]
    cpu: float
    """Cores."""
    memory: float
    """Bytes."""
    gpu: float
    """Devices."""
    started_at: datetime
    """When it began to hold these resources."""
    ended_at: datetime | None = None
    """When it released them, for an ended node that the backend still remembers."""


@dataclass(frozen=True)
class Evidence:
    """A fact from the backend that may explain why a cluster is not as wanted: an event, a pod's state, a quota."""

    source: Literal["event", "pod", "node", "quota", "operator", "cluster", "autoscaler"]
    about: str
    """The object of the fact, such as ``pod/dev-head``."""
    reason: str
    """One word in the source's own terms, such as ``FailedScheduling``."""
    message: str
    at: datetime | None = None
    count: int = 1
    """Number of times that the source reported it."""
    node: Literal["head", "worker"] | None = None
    """The kind of the node that it concerns, if it concerns one."""


@dataclass(frozen=True)
class Observation:
    """The observed state of a cluster."""

    phase: Literal["absent", "starting", "ready", "failed", "stopping", "suspended"]
    reason: str = ""
    message: str = ""
    incarnation: str | None = None
    """Changes with every new head."""
    endpoint: Endpoint | None = None
    environment: Environment | None = None
    nodes: tuple[Node, ...] = ()
    """Its current nodes, and ended ones that the backend still remembers: the source of the ledger."""
    drift: str = ""
    """Difference between the actual and the requested state; ``ensure`` repairs it. Empty if there is none."""
    ended: str | None = None
    """The incarnation that ``failed`` concerns, if known: another may have replaced it since."""


@dataclass(frozen=True)
class JobObservation:
    """The observed state of an attempt with nodes of its own."""

    phase: Literal["absent", "starting", "running", "succeeded", "failed", "stopped", "timed_out", "lost", "stopping"]
    """``absent`` once all of its nodes are gone; ``lost`` if its head died while it ran."""
    reason: str = ""
    message: str = ""
    incarnation: str | None = None
    """Changes with every new head."""
    endpoint: Endpoint | None = None
    """The endpoint of its own Ray, once that can be called."""
    environment: Environment | None = None
    nodes: tuple[Node, ...] = ()
    """Its current nodes, and ended ones that the backend still remembers: the source of the ledger."""
    drift: str = ""
    """The missing part if ``ensure_job`` was interrupted; calling it again does the rest."""


@dataclass(frozen=True)
class ServiceObservation:
    """The observed state of a service with nodes of its own."""

    phase: Literal["absent", "starting", "ready", "failed", "stopping"]
    """``starting`` also while new nodes that will take over start; the old ones serve until then."""
    reason: str = ""
    message: str = ""
    endpoint: Endpoint | None = None
    """The endpoint of the serving Ray; its ``serve_url`` stays the same for the service's lifetime."""
    environment: Environment | None = None
    nodes: tuple[Node, ...] = ()
    """Its current nodes, and ended ones that the backend still remembers: the source of the ledger."""
    drift: str = ""
    """Difference between the actual and the requested state; ``ensure_service`` repairs it."""


class Reader(Protocol):
    """The part of the port that use cases may call: it changes no compute."""

    name: str
    capabilities: frozenset[Capability]

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """Every reason why this cluster can't be created, each with its remedy; empty if it can."""
        ...

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """The environment that the cluster has or would have; None if it is unknown before the cluster runs.

        It must not wait for anything: it is asked while others wait to write.
        """
        ...

    def real_cores(self) -> int | None:
        """The cores that all of its clusters share; None where each node has its own."""
        ...

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """Observe the cluster. Never raises for one that is absent or broken: that is an observation."""
        ...

    def preflight_job(self, ref: JobRef, spec: JobSpec, size: Size) -> list[str]:
        """Every reason why the job can't have its nodes, each with its remedy. Raises Unsupported without JOB."""
        ...

    def preflight_service(self, ref: ServiceRef, spec: ServiceSpec, size: Size) -> list[str]:
        """Every reason why the service can't have its nodes, each with its remedy. Raises Unsupported without
        SERVICE."""
        ...

    def observe_job(self, ref: JobRef) -> JobObservation:
        """Observe the attempt; never raises for one that is absent or broken. Raises Unsupported without JOB."""
        ...

    def observe_service(self, ref: ServiceRef) -> ServiceObservation:
        """Observe the service; never raises for one that is absent or broken. Raises Unsupported without SERVICE."""
        ...

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """Facts that may explain the cluster's state, newest first; ``why`` shows them to users."""
        ...


@runtime_checkable
class Backend(Reader, Protocol):
    """The part of the port that only the reconciler may call. All calls raise Unavailable while the provider of the
    compute (the host, Kubernetes) can't be reached."""

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Ask for the cluster as ``spec`` describes it and return at once. An existing or starting one is success; one
        whose head died is restarted (another incarnation); a suspended one is resumed; drift is repaired, without a new
        head where possible. Raises Unsupported without CREATE."""
        ...

    def renew(self, ref: ClusterRef | JobRef | ServiceRef, secrets: Mapping[str, str]) -> None:
        """Put these secrets of a launch context where the running processes read them, and return soon. The reconciler
        calls this at every look, so a call with current secrets must cost next to nothing. An absent target, or one
        without secrets, is success. Nothing restarts. Raises Unavailable if the secrets can't be written now."""
        ...

    def suspend(self, ref: ClusterRef, spec: ClusterSpec) -> None:
        """Ask for release of its compute and return at once. A cluster without compute is success. It is then observed
        as ``suspended``, or as ``absent`` where nothing needs to stay. Raises Unsupported without SUSPEND."""
        ...

    def delete(self, ref: ClusterRef) -> None:
        """Ask for deletion and return soon. An absent cluster is success; nothing of it stays behind."""
        ...

    def ensure_job(self, ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext) -> None:
        """Ask for nodes of the attempt's own, on which Ray runs the submission once; return at once. An existing
        attempt, even an ended one, is success and stays as it is: a lost attempt is not restarted. Raises InvalidInput
        if it is refused, Unsupported without JOB."""
        ...

    def delete_job(self, ref: JobRef) -> None:
        """Ask for deletion of the attempt and its nodes, running or not; return soon. An absent one is success. Raises
        Unsupported without JOB."""
        ...

    def ensure_service(
        self, ref: ServiceRef, nodes: Nodes, application: Mapping[str, Any], launch: LaunchContext
    ) -> None:
        """Ask for nodes of the service's own that serve this application of Serve's configuration; return at once.
        A changed application is rolled out on the existing nodes; changed nodes take over before the old ones go.
        Drift is repaired. Raises InvalidInput if it is refused, Unsupported without SERVICE."""
        ...

    def delete_service(self, ref: ServiceRef) -> None:
        """Ask for deletion of the service and its nodes; return soon. An absent one is success. Raises Unsupported
        without SERVICE."""
        ...

    def ensure_team(self, team: TeamRef, spec: TeamSpec) -> str:
        """Create the team's place (a namespace, a Unix user) as ``spec`` describes it and repair drift. Returns the
        part that is still missing, as one sentence; empty once it is complete. Raises Unsupported without TEAM."""
        ...

    def delete_team(self, team: TeamRef) -> str:
        """Ask for deletion of the team's place with everything in it. Returns the part that is left, as one sentence;
        empty once it is gone. An absent place is success. Raises Unsupported without TEAM."""
        ...

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call ``changed``, soon and from any thread, with the uid of a cluster (or of a job or service with nodes of
        its own) whenever its observation may have changed, and with that of a team whenever its place may have; until
        the backend is closed. Raises Unsupported without WATCH."""
        ...

    def close(self) -> None:
        """Release threads and connections. Requested operations go on."""
        ...


class SharedNodesOnly:
    """Mixin for a backend without JOB and SERVICE: refuses every call about nodes of a job's or a service's own."""

    name: str

    def preflight_job(self, ref: JobRef, spec: JobSpec, size: Size) -> list[str]:
        """Raises Unsupported."""
        self._refuse("job", ref)

    def observe_job(self, ref: JobRef) -> JobObservation:
        """Raises Unsupported."""
        self._refuse("job", ref)

    def ensure_job(self, ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext) -> None:
        """Raises Unsupported."""
        self._refuse("job", ref)

    def delete_job(self, ref: JobRef) -> None:
        """Raises Unsupported."""
        self._refuse("job", ref)

    def preflight_service(self, ref: ServiceRef, spec: ServiceSpec, size: Size) -> list[str]:
        """Raises Unsupported."""
        self._refuse("service", ref)

    def observe_service(self, ref: ServiceRef) -> ServiceObservation:
        """Raises Unsupported."""
        self._refuse("service", ref)

    def ensure_service(
        self, ref: ServiceRef, nodes: Nodes, application: Mapping[str, Any], launch: LaunchContext
    ) -> None:
        """Raises Unsupported."""
        self._refuse("service", ref)

    def delete_service(self, ref: ServiceRef) -> None:
        """Raises Unsupported."""
        self._refuse("service", ref)

    def _refuse(self, noun: str, ref: JobRef | ServiceRef) -> NoReturn:
        raise Unsupported(
            f"The backend '{self.name}' has no nodes for {noun} '{ref}' alone.",
            remedy=f"Name a cluster of the team: {noun}.cluster.",
        )
