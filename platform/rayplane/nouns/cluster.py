"""Cluster: a team's Ray cluster."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rayplane.nouns.base import BLANK, MOST, Count, Instant, Name, Record, Seconds, Spec, Status, Time, as_whole
from rayplane.nouns.environment import Environment

_RANGE = re.compile(rf"^{BLANK}([0-9]{{1,9}}){BLANK}(?:\.\.{BLANK}([0-9]{{1,9}}){BLANK})?$")


def parse_workers(value: Any) -> Any:
    """``4`` or ``"0..4"`` as ``{"min": ..., "max": ...}``; anything that is no such text or number stays as it is."""
    value = as_whole(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    if isinstance(value, int) and 0 <= value <= MOST:
        return {"min": value, "max": value}
    match = _RANGE.fullmatch(str(value))
    if match is None:
        raise ValueError(
            f"'{str(value)[:60]}' is no number of workers: write 4 for that many always, or 0..4 for as many as the "
            "work needs"
        )
    least, most = match[1], match[2] or match[1]
    return {"min": int(least), "max": int(most)}


class Workers(Spec):
    """How many worker nodes beside the head, at least and at most; ``4`` and ``0..4`` are short for both."""

    min: Count = 0
    max: Count = 0

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return parse_workers(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler.resolve_ref_schema(handler(schema))
        if handler.mode == "serialization":
            return made
        short = [{"type": "integer", "minimum": 0, "maximum": MOST}, {"type": "string", "pattern": _RANGE.pattern}]
        return {"title": made.pop("title"), "description": made.pop("description"), "anyOf": [made, *short]}

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

    def as_cluster(self) -> ClusterSpec:
        """The cluster that such nodes make up."""
        return ClusterSpec(size=self.size, workers=self.workers, backend=self.backend)


class ClusterSpec(Spec):
    """What a cluster is to be."""

    size: Name = "small"
    """A size of the team; on the local backend its cores are logical."""
    workers: Workers = Field(default_factory=Workers)
    backend: str | None = None
    """Overrides the team's backend."""
    address: str | None = None
    """The dashboard's URL of a Ray cluster that already runs (backend `existing`)."""
    idle_timeout: Time | None = None
    """Seconds without a job, client or Serve application after which it is suspended; default: the team's."""
    delete_after_idle: Seconds | None = None
    """Seconds for which it stays suspended for idleness before it is deleted whole; default: the team's."""
    max_lifetime: Time | None = None
    """Seconds after it was made at which it is suspended and deleted, whatever it does; default: the team's."""
    suspended: bool = False
    """Whether a person wants it to hold no compute. One that is idle is suspended by its status, not by this."""

    @field_validator("idle_timeout", "max_lifetime")
    @classmethod
    def _takes_time(cls, value: float | None) -> float | None:
        if value == 0:
            raise ValueError("0s would end it at once: write a time, such as 30m, or leave it out for none")
        return value


ONE_PLACE: list[Any] = [
    {"required": [one], "properties": {one: {"type": kind}, other: {"type": "null"}}}
    for one, kind, other in (("cluster", "string", "nodes"), ("nodes", "object", "cluster"))
]
"""What ``require_one_place`` wants, in JSON Schema's words."""


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
    reach: Literal["own", "allowed", "placed"] = "own"
    """Owner of that address: the platform itself; another, and the settings must allow it at each look; or
    another, and an admin of the platform placed it."""
    client_address: str | None = None
    """``ray://host:port`` for Ray Client."""
    token_path: str | None = None
    serve_url: str | None = None
    """Base URL of Ray Serve's HTTP."""
    metrics_targets: list[str] = Field(default_factory=list)
    """``host:port`` of every Ray node's (and Serve's) exporter."""


class Suspension(Record):
    """Why the platform, not a person, took a cluster's compute back."""

    reason: Literal["Idle", "Lifetime"]
    """Idle: it was not used; the next job, client or service resumes it. Lifetime: its time is over; it is deleted."""
    message: str = ""
    at: Instant
    """When that was decided."""
    delete_at: Instant | None = None
    """When it is deleted whole, unless it is resumed or extended before; None: it stays."""


class ClusterStatus(Status):
    """Phases: Pending, Starting, Ready, Failed, Suspending, Suspended, Deleting."""

    endpoint: Endpoint | None = None
    environment: Environment | None = None
    ready_at: Instant | None = None
    incarnation: str | None = None
    """Changes with every new head: a job of an earlier incarnation is lost."""
    suspension: Suspension | None = None
    """Set while the platform itself keeps it suspended; a person's wish is ``spec.suspended``."""
    idle_since: Instant | None = None
    """Since when it is known that nobody uses it; None while somebody does, or while that is not known."""
    kept_until: Instant | None = None
    """Until when somebody asked that it not be suspended for idleness."""
    lives_until: Instant | None = None
    """Until when somebody asked that it live, where that is longer than its lifetime."""
    placed: bool = False
    """Set where an admin of the platform chose ``spec.address``: the settings then need not allow it."""

    @property
    def is_over(self) -> bool:
        """Whether the platform decided that its lifetime is over."""
        return self.suspension is not None and self.suspension.reason == "Lifetime"


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


class ClusterUsage(Record):
    """What one cluster held over a time, in resource-seconds: amount held times seconds held."""

    cluster: str
    cluster_uid: str
    node_seconds: float = 0
    core_seconds: float = 0
    gib_seconds: float = 0
    """GiB of memory times seconds."""
    gpu_seconds: float = 0
    open: int = 0
    """How many of its nodes are held now."""
