"""The port to where compute comes from: what a backend owes the reconciler, and a reader everybody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

from rayplane.nouns.cluster import ClusterSpec, Endpoint
from rayplane.nouns.environment import Environment
from rayplane.nouns.team import Size


class Capability(StrEnum):
    """What a backend may be able to do; asking for one it lacks raises Unsupported."""

    CREATE = "create"
    SUSPEND = "suspend"
    SERVE = "serve"
    CLIENT = "client"


@dataclass(frozen=True)
class ClusterRef:
    """Which cluster is meant. The uid tells a recreated cluster from its predecessor."""

    team: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.team}/{self.name}"


@dataclass(frozen=True)
class LaunchContext:
    """What the platform puts into a new cluster."""

    size: Size
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of the head; holds paths of secrets, never secrets."""


@dataclass(frozen=True)
class Observation:
    """What a backend sees of a cluster now."""

    phase: Literal["absent", "starting", "ready", "failed", "stopping"]
    reason: str = ""
    message: str = ""
    incarnation: str | None = None
    """Changes with every new head."""
    endpoint: Endpoint | None = None
    environment: Environment | None = None


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

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """What is there now. Never raises for a cluster that is absent or broken: that is an answer."""
        ...


@runtime_checkable
class Backend(Reader, Protocol):
    """What the reconciler alone may ask."""

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Ask for the cluster to be there and return at once. One already there or starting is success; one whose head
        died is started anew (another incarnation). Raises Unsupported without CREATE."""
        ...

    def delete(self, ref: ClusterRef) -> None:
        """Ask for deletion and return soon. A cluster already gone is success; nothing of it is left behind."""
        ...
