"""The port to where compute comes from: what a backend owes the reconciler, and a reader everybody else."""

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
    """What a backend may be able to do; asking for one it lacks raises Unsupported."""

    CREATE = "create"
    """Makes and deletes clusters."""
    SUSPEND = "suspend"
    """Releases a cluster's compute and gives it back."""
    SERVE = "serve"
    """Its clusters serve models over HTTP."""
    CLIENT = "client"
    """Its clusters take Ray clients."""
    WORKERS = "workers"
    """Its clusters have worker nodes that come and go between a least and a most number."""
    WATCH = "watch"
    """It tells by itself which cluster changed, so that a cluster at rest need not be looked at often."""
    TEAM = "team"
    """It keeps a place of its own for each team."""
    JOB = "job"
    """It runs a job on nodes of the job's own."""
    SERVICE = "service"
    """It serves a service from nodes of the service's own."""


@dataclass(frozen=True)
class ClusterRef:
    """Which cluster is meant. The uid tells a recreated cluster from its predecessor."""

    team: str
    name: str
    uid: str
    placed: bool = field(default=False, compare=False)
    """Set where an admin of the platform chose the address at which it runs."""

    def __str__(self) -> str:
        return f"{self.team}/{self.name}"


@dataclass(frozen=True)
class TeamRef:
    """Which team is meant. The uid tells a recreated team from its predecessor."""

    name: str
    uid: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class JobRef:
    """Which attempt of which job with nodes of its own is meant."""

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
    """Which service with nodes of its own is meant. The uid tells a recreated service from its predecessor."""

    team: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.team}/{self.name}"


@dataclass(frozen=True)
class Submission:
    """What Ray is asked to run as a job, under the id of its attempt."""

    entrypoint: str
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    """What the entrypoint's own process reserves."""
    timeout: float | None = None
    """Seconds after which the platform stops the attempt; the backend ends it somewhat later if nobody did."""


RAY_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray 2.60's new Parquet reader waits for tens of seconds on small files.
        "RAY_DATA_USE_DATASOURCE_V2": "0",
        # A client's own server has 30 s to start unless told otherwise, which is little on a busy host.
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",
        # With gRPC's fork handlers a child that is forked while other threads are within gRPC may crash before its
        # exec: a Ray client then hears that "Starting Ray client server failed".
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        # Ray Train takes one report from a worker at every look, and looks every 2 s by default: a script that reports
        # each round would wait for that.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        "PYTHONUNBUFFERED": "1",
    }
)
"""What a backend that starts Rays tells each of them, hence their drivers and workers."""


@dataclass(frozen=True)
class LaunchContext:
    """What the platform puts into a new cluster, and into the nodes of a job or a service."""

    size: Size
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of every node; never a secret."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Name of an environment variable -> secret text. The backend keeps the text where only the cluster can read it (a
    0600 file, a mounted Secret) and gives the variable the *path* that the cluster's processes find it at."""


@dataclass(frozen=True)
class Node:
    """A node that a cluster holds, or held until lately."""

    id: str
    """Never given twice."""
    kind: Literal["head", "worker"]
    cpu: float
    """Cores."""
    memory: float
    """Bytes."""
    gpu: float
    """Devices."""
    started_at: datetime
    """When it began to hold them."""
    ended_at: datetime | None = None
    """When it gave them back, where the backend still knows of a node that did."""


@dataclass(frozen=True)
class Evidence:
    """A fact from below that bears on why a cluster is not as wanted: an event, a pod's state, a full quota."""

    source: Literal["event", "pod", "node", "quota", "operator", "cluster", "autoscaler"]
    about: str
    """What it is said of, such as ``pod/dev-head``."""
    reason: str
    """One word in the source's own terms, such as ``FailedScheduling``."""
    message: str
    at: datetime | None = None
    count: int = 1
    """How often it was said."""
    node: Literal["head", "worker"] | None = None
    """The kind of node that it is said of, where it is one's."""


@dataclass(frozen=True)
class Observation:
    """What a backend sees of a cluster now."""

    phase: Literal["absent", "starting", "ready", "failed", "stopping", "suspended"]
    reason: str = ""
    message: str = ""
    incarnation: str | None = None
    """Changes with every new head."""
    endpoint: Endpoint | None = None
    environment: Environment | None = None
    nodes: tuple[Node, ...] = ()
    """What it holds now, and what it gave back as far as that is still known: the ledger's source."""
    drift: str = ""
    """How what is there differs from what was last asked for; ``ensure`` repairs it. Empty where nothing does."""
    ended: str | None = None
    """The incarnation of which ``failed`` tells, where that is known: another may have taken its place since."""


@dataclass(frozen=True)
class JobObservation:
    """What a backend sees of an attempt with nodes of its own."""

    phase: Literal["absent", "starting", "running", "succeeded", "failed", "stopped", "timed_out", "lost", "stopping"]
    """``absent`` once all of its nodes are gone; ``lost`` when its head died under it."""
    reason: str = ""
    message: str = ""
    incarnation: str | None = None
    """Changes with every new head."""
    endpoint: Endpoint | None = None
    """Its own Ray, once that may be asked."""
    environment: Environment | None = None
    nodes: tuple[Node, ...] = ()
    """What it holds now, and what it gave back as far as that is still known: the ledger's source."""
    drift: str = ""
    """What is missing of what ``ensure_job`` makes, where it was not done to its end; it then does the rest."""


@dataclass(frozen=True)
class ServiceObservation:
    """What a backend sees of a service with nodes of its own."""

    phase: Literal["absent", "starting", "ready", "failed", "stopping"]
    """``starting`` also while new nodes come that are to take over; the old ones serve until then."""
    reason: str = ""
    message: str = ""
    endpoint: Endpoint | None = None
    """The Ray that serves; its ``serve_url`` stays the same for the service's life."""
    environment: Environment | None = None
    nodes: tuple[Node, ...] = ()
    """What it holds now, and what it gave back as far as that is still known: the ledger's source."""
    drift: str = ""
    """How what is there differs from what was last asked for; ``ensure_service`` repairs it."""


class Reader(Protocol):
    """What use cases may ask: nothing here changes compute."""

    name: str
    capabilities: frozenset[Capability]

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """Every reason why this cluster can't be made, each with its remedy; empty when it can."""
        ...

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """The environment that the cluster has or would have; None if it can't be known before it runs."""
        ...

    def real_cores(self) -> int | None:
        """The cores that all of its clusters share; None where each node has its own."""
        ...

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """What is there now. Never raises for a cluster that is absent or broken: that is an answer."""
        ...

    def preflight_job(self, ref: JobRef, spec: JobSpec, size: Size) -> list[str]:
        """Every reason why the job can't have its nodes, each with its remedy. Raises Unsupported without JOB."""
        ...

    def preflight_service(self, ref: ServiceRef, spec: ServiceSpec, size: Size) -> list[str]:
        """Every reason why the service can't have its nodes, each with its remedy. Raises Unsupported without
        SERVICE."""
        ...

    def observe_job(self, ref: JobRef) -> JobObservation:
        """What is there now of the attempt; never raises for one that is absent or broken. Raises Unsupported without
        JOB."""
        ...

    def observe_service(self, ref: ServiceRef) -> ServiceObservation:
        """What is there now of the service; never raises for one that is absent or broken. Raises Unsupported without
        SERVICE."""
        ...

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """What the backend knows that bears on the cluster's state, newest first; for people, through ``why``."""
        ...


@runtime_checkable
class Backend(Reader, Protocol):
    """What the reconciler alone may ask. All raise Unavailable while where compute comes from can't be reached."""

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Ask for the cluster to be there as ``spec`` says and return at once. One already there or starting is
        success; one whose head died is started anew (another incarnation); a suspended one is resumed; one that
        drifted is put right without a new head where that is possible. Raises Unsupported without CREATE."""
        ...

    def renew(self, ref: ClusterRef | JobRef | ServiceRef, secrets: Mapping[str, str]) -> None:
        """Put these secrets of a launch context where the processes of what runs already read them, and return soon.
        It is asked at every look, so that what has them costs next to nothing; what is not there, or was given none, is
        success. Nothing restarts. Raises Unavailable where it can't be done now."""
        ...

    def suspend(self, ref: ClusterRef, spec: ClusterSpec) -> None:
        """Ask for its compute to be released and return at once. A cluster that holds none is success. It is observed
        as ``suspended``, or as ``absent`` where nothing needs to stay. Raises Unsupported without SUSPEND."""
        ...

    def delete(self, ref: ClusterRef) -> None:
        """Ask for deletion and return soon. A cluster already gone is success; nothing of it is left behind."""
        ...

    def ensure_job(self, ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext) -> None:
        """Ask for nodes of the attempt's own, on which Ray runs the submission once; return at once. An attempt that is
        there already, ended ones too, is success and stays as it is: an attempt that was lost is not begun again.
        Raises InvalidInput for what is refused, Unsupported without JOB."""
        ...

    def delete_job(self, ref: JobRef) -> None:
        """Ask for the attempt and its nodes to go, whatever it is doing; return soon. One already gone is success.
        Raises Unsupported without JOB."""
        ...

    def ensure_service(
        self, ref: ServiceRef, nodes: Nodes, application: Mapping[str, Any], launch: LaunchContext
    ) -> None:
        """Ask for nodes of the service's own that serve this application of Serve's configuration; return at once.
        Another application is rolled out on the nodes that are there; other nodes take over before the old ones go.
        What drifted is put right. Raises InvalidInput for what is refused, Unsupported without SERVICE."""
        ...

    def delete_service(self, ref: ServiceRef) -> None:
        """Ask for the service and its nodes to go; return soon. One already gone is success. Raises Unsupported without
        SERVICE."""
        ...

    def ensure_team(self, team: TeamRef, spec: TeamSpec) -> str:
        """Make the team's place as ``spec`` says, put right what drifted, and return what is still missing of it (one
        sentence), empty once it is there. Raises Unsupported without TEAM."""
        ...

    def delete_team(self, team: TeamRef) -> str:
        """Ask for the team's place to go, with all in it, and return what is left of it (one sentence), empty once
        nothing is. A place already gone is success. Raises Unsupported without TEAM."""
        ...

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call ``changed`` with a cluster's uid (or that of a job or service with nodes of its own), soon and from any
        thread, whenever what ``observe`` would say of it may have changed, for as long as the backend is open; with a
        team's when its place did. Raises Unsupported without WATCH."""
        ...

    def close(self) -> None:
        """Give back threads and connections. What was asked for goes on."""
        ...


class SharedNodesOnly:
    """Mixed into a backend without JOB and SERVICE: whatever is asked of jobs' and services' own nodes is refused."""

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
