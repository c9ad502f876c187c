"""Cluster: a team's Ray cluster."""

from __future__ import annotations

from pydantic import Field, model_validator

from rayplane.nouns.base import Instant, Name, Record, Seconds, Spec, Status
from rayplane.nouns.environment import Environment


class Workers(Spec):
    """How many worker nodes beside the head, at least and at most."""

    min: int = Field(default=0, ge=0)
    max: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class Nodes(Spec):
    """Nodes that a job or a service gets for itself: a head and its workers, gone when it is."""

    size: Name = "small"
    """A size of the team, for the head and for each worker."""
    workers: Workers = Field(default_factory=Workers)
    backend: str | None = None
    """Overrides the team's backend."""


class ClusterSpec(Spec):
    """What a cluster is to be."""

    size: Name = "small"
    """A size of the team; on the local backend its cores are logical."""
    workers: Workers = Field(default_factory=Workers)
    backend: str | None = None
    """Overrides the team's backend."""
    address: str | None = None
    """The dashboard's URL of a Ray cluster that already runs (backend `existing`)."""
    idle_timeout: Seconds | None = None
    max_lifetime: Seconds | None = None
    suspended: bool = False


def require_one_place(cluster: str | None, nodes: Nodes | None) -> None:
    """Raise ValueError unless exactly one is given: the cluster to be on, or nodes of its own."""
    if cluster is not None and nodes is not None:
        raise ValueError(
            "'cluster' and 'nodes' exclude each other: name a cluster to be on, or ask for nodes of its own"
        )
    if cluster is None and nodes is None:
        raise ValueError("say where: name a 'cluster', or ask for 'nodes' of its own, such as nodes: {size: small}")


class Endpoint(Record):
    """Where a ready cluster is reached. URLs carry no secret; the token's path is readable by its owner alone."""

    dashboard_url: str
    """Base URL of the Ray dashboard: Jobs and Serve REST."""
    client_address: str | None = None
    """``ray://host:port`` for Ray Client."""
    token_path: str | None = None
    serve_url: str | None = None
    """Base URL of Ray Serve's HTTP."""
    metrics_targets: list[str] = Field(default_factory=list)
    """``host:port`` of every Ray node's (and Serve's) exporter."""


class ClusterStatus(Status):
    """Phases: Pending, Starting, Ready, Failed, Suspended, Deleting."""

    endpoint: Endpoint | None = None
    environment: Environment | None = None
    ready_at: Instant | None = None
    incarnation: str | None = None
    """Changes with every new head: a job of an earlier incarnation is lost."""


class Lease(Record):
    """A row of the ledger: compute held from ``started_at`` until ``ended_at`` (open while None)."""

    id: str
    team: str
    cluster_uid: str
    """The uid of what held it: a cluster, or a job or service with nodes of its own."""
    cluster: str
    """Its name; ``job/<name>`` or ``service/<name>`` where it is no cluster."""
    cpu: float
    memory: float
    gpu: float
    started_at: Instant
    ended_at: Instant | None = None
