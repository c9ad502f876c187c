"""The port to compute backends, composed of a small port for each noun: ``Backend`` for the reconciler, ``Reader`` for
all other code. A noun that a backend gives no nodes or place of its own has None for its port."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from rayplane.errors import Unsupported
from rayplane.nouns.cluster import ClusterSpec, Endpoint, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import JobSpec, Resources
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import Size, TeamSpec


class Capability(StrEnum):
    """An ability that a backend may have; calls for a missing one raise Unsupported, or have no port to go to."""

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
    """It has a place of its own for each team, such as a namespace or a Unix user: its ``teams`` is not None."""
    JOB = "job"
    """It runs a job on nodes of the job's own: its ``jobs`` is not None."""
    SERVICE = "service"
    """It serves a service from nodes of the service's own: its ``services`` is not None."""


@dataclass(frozen=True)
class ObjectRef:
    """Identity of an object of a team. The uid distinguishes a recreated object from its predecessor."""

    team: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.team}/{self.name}"


@dataclass(frozen=True)
class ClusterRef(ObjectRef):
    """Identity of a cluster."""

    placed: bool = field(default=False, compare=False)
    """True if an admin of the platform chose the address at which it runs."""


@dataclass(frozen=True)
class JobRef(ObjectRef):
    """Identity of an attempt of a job with nodes of its own."""

    attempt: int

    @property
    def submission_id(self) -> str:
        """The id under which Ray knows the attempt."""
        return f"{self.uid}-{self.attempt}"


@dataclass(frozen=True)
class ServiceRef(ObjectRef):
    """Identity of a service with nodes of its own."""


@dataclass(frozen=True)
class TeamRef:
    """Identity of a team. The uid distinguishes a recreated team from its predecessor."""

    name: str
    uid: str

    def __str__(self) -> str:
        return self.name


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
    """The missing part if ``ensure`` was interrupted; calling it again does the rest."""


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
    """Difference between the actual and the requested state; ``ensure`` repairs it."""


RefT_contra = TypeVar("RefT_contra", bound=ObjectRef, contravariant=True)


class Renewing(Protocol[RefT_contra]):
    """The part of a port that brings new secrets to running processes."""

    def renew(self, ref: RefT_contra, secrets: Mapping[str, str]) -> None:
        """Put these secrets of a launch context where the running processes read them, and return soon. The reconciler
        calls this at every look, so a call with current secrets must cost next to nothing. An absent target, or one
        without secrets, is success. Nothing restarts. Raises Unavailable if the secrets can't be written now."""
        ...


class ClusterReader(Protocol):
    """The part of the port to clusters that changes no compute."""

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """Every reason why this cluster can't be created, each with its remedy; empty if it can."""
        ...

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """Observe the cluster. Never raises for one that is absent or broken: that is an observation."""
        ...

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """Facts that may explain the cluster's state, newest first; ``why`` shows them to users."""
        ...


@runtime_checkable
class ClusterBackend(ClusterReader, Renewing[ClusterRef], Protocol):
    """The port to clusters."""

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Ask for the cluster as ``spec`` describes it and return at once. An existing or starting one is success; one
        whose head died is restarted (another incarnation); a suspended one is resumed; drift is repaired, without a new
        head where possible. Raises Unsupported without CREATE."""
        ...

    def suspend(self, ref: ClusterRef, spec: ClusterSpec) -> None:
        """Ask for release of its compute and return at once. A cluster without compute is success. It is then observed
        as ``suspended``, or as ``absent`` where nothing needs to stay. Raises Unsupported without SUSPEND."""
        ...

    def delete(self, ref: ClusterRef) -> None:
        """Ask for deletion and return soon. An absent cluster is success; nothing of it stays behind. Raises
        Unsupported without CREATE."""
        ...


class JobReader(Protocol):
    """The part of the port to jobs with nodes of their own that changes no compute."""

    def preflight(self, ref: JobRef, spec: JobSpec, size: Size) -> list[str]:
        """Every reason why the job can't have its nodes, each with its remedy; empty if it can."""
        ...

    def observe(self, ref: JobRef) -> JobObservation:
        """Observe the attempt. Never raises for one that is absent or broken: that is an observation."""
        ...

    def evidence(self, ref: ObjectRef) -> list[Evidence]:
        """Facts that may explain the state of the job's nodes, of any attempt, newest first."""
        ...


@runtime_checkable
class JobBackend(JobReader, Renewing[JobRef], Protocol):
    """The port to jobs with nodes of their own."""

    def ensure(self, ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext) -> None:
        """Ask for nodes of the attempt's own, on which Ray runs the submission once; return at once. An existing
        attempt, even an ended one, is success and stays as it is: a lost attempt is not restarted. Raises InvalidInput
        if it is refused."""
        ...

    def delete(self, ref: JobRef) -> None:
        """Ask for deletion of the attempt and its nodes, running or not; return soon. An absent one is success."""
        ...


class ServiceReader(Protocol):
    """The part of the port to services with nodes of their own that changes no compute."""

    def preflight(self, ref: ServiceRef, spec: ServiceSpec, size: Size) -> list[str]:
        """Every reason why the service can't have its nodes, each with its remedy; empty if it can."""
        ...

    def observe(self, ref: ServiceRef) -> ServiceObservation:
        """Observe the service. Never raises for one that is absent or broken: that is an observation."""
        ...

    def evidence(self, ref: ObjectRef) -> list[Evidence]:
        """Facts that may explain the state of the service's nodes, newest first."""
        ...


@runtime_checkable
class ServiceBackend(ServiceReader, Renewing[ServiceRef], Protocol):
    """The port to services with nodes of their own."""

    def ensure(self, ref: ServiceRef, nodes: Nodes, application: Mapping[str, Any], launch: LaunchContext) -> None:
        """Ask for nodes of the service's own that serve this application of Serve's configuration; return at once.
        A changed application is rolled out on the existing nodes; changed nodes take over before the old ones go.
        Drift is repaired. Raises InvalidInput if it is refused."""
        ...

    def delete(self, ref: ServiceRef) -> None:
        """Ask for deletion of the service and its nodes; return soon. An absent one is success."""
        ...


@runtime_checkable
class TeamBackend(Protocol):
    """The port to the places of teams: a namespace, or a Unix user, for each."""

    def ensure(self, ref: TeamRef, spec: TeamSpec) -> str:
        """Create the team's place as ``spec`` describes it and repair drift. Returns the part that is still missing, as
        one sentence; empty once it is complete."""
        ...

    def delete(self, ref: TeamRef) -> str:
        """Ask for deletion of the team's place with everything in it. Returns the part that is left, as one sentence;
        empty once it is gone. An absent place is success."""
        ...


class Reader(Protocol):
    """The part of a backend that use cases may call: it changes no compute."""

    name: str
    capabilities: frozenset[Capability]
    """JOB, SERVICE and TEAM are those of the ports that it has: see ``capabilities_of``."""

    @property
    def clusters(self) -> ClusterReader:
        """The port to clusters."""
        ...

    @property
    def jobs(self) -> JobReader | None:
        """The port to jobs with nodes of their own; None without JOB."""
        ...

    @property
    def services(self) -> ServiceReader | None:
        """The port to services with nodes of their own; None without SERVICE."""
        ...

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """The environment that a cluster, or a job's or a service's own nodes, has or would have; None if it is unknown
        before it runs.

        It must not wait for anything: it is asked while others wait to write.
        """
        ...

    def real_cores(self) -> int | None:
        """The cores that all of its clusters share; None where each node has its own."""
        ...


@runtime_checkable
class Backend(Reader, Protocol):
    """The whole of a backend, which only the reconciler may call. All calls raise Unavailable while the provider of the
    compute (the host, Kubernetes) can't be reached."""

    @property
    def clusters(self) -> ClusterBackend:
        """The port to clusters."""
        ...

    @property
    def jobs(self) -> JobBackend | None:
        """The port to jobs with nodes of their own; None without JOB."""
        ...

    @property
    def services(self) -> ServiceBackend | None:
        """The port to services with nodes of their own; None without SERVICE."""
        ...

    @property
    def teams(self) -> TeamBackend | None:
        """The port to the places of teams; None without TEAM."""
        ...

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call ``changed``, soon and from any thread, with the uid of a cluster (or of a job or service with nodes of
        its own) whenever its observation may have changed, and with that of a team whenever its place may have; until
        the backend is closed. Raises Unsupported without WATCH."""
        ...

    def close(self) -> None:
        """Release threads and connections. Requested operations go on."""
        ...


def capabilities_of(
    abilities: Set[Capability], *, jobs: object | None, services: object | None, teams: object | None
) -> frozenset[Capability]:
    """The capabilities of a backend with these abilities and ports: JOB, SERVICE and TEAM say that it has the port.

    A backend calls this with its own ``jobs``, ``services`` and ``teams``, so that the two can't disagree.
    """
    ports = {Capability.JOB: jobs, Capability.SERVICE: services, Capability.TEAM: teams}
    return frozenset(abilities - ports.keys()) | {capability for capability, port in ports.items() if port is not None}


def jobs_of(backend: Backend, ref: JobRef) -> JobBackend:
    """The backend's port to jobs with nodes of their own. Raises Unsupported if it has none."""
    if backend.jobs is None:
        raise _no_nodes(backend, "job", ref)
    return backend.jobs


def services_of(backend: Backend, ref: ServiceRef) -> ServiceBackend:
    """The backend's port to services with nodes of their own. Raises Unsupported if it has none."""
    if backend.services is None:
        raise _no_nodes(backend, "service", ref)
    return backend.services


def teams_of(backend: Backend, ref: TeamRef) -> TeamBackend:
    """The backend's port to the places of teams. Raises Unsupported if it has none."""
    if backend.teams is None:
        raise Unsupported(f"The backend '{backend.name}' keeps no place for team '{ref}'.", remedy="None is needed.")
    return backend.teams


def _no_nodes(backend: Backend, noun: str, ref: ObjectRef) -> Unsupported:
    return Unsupported(
        f"The backend '{backend.name}' has no nodes for {noun} '{ref}' alone.",
        remedy=f"Name a cluster of the team: {noun}.cluster.",
    )
