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
    cluster: str
    cpu: float
    memory: float
    gpu: float
    started_at: Instant
    ended_at: Instant | None = None
