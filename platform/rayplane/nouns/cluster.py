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
    """Convert ``4`` or ``"0..4"`` to ``{"min": ..., "max": ...}``; return anything but a number or text unchanged.

    Raises ValueError for a text in another form.
    """
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
    """Least and greatest number of worker nodes beside the head; ``4`` and ``0..4`` are short forms."""

    min: Count = 0
    """Workers that are always there."""
    max: Count = 0
    """Workers that the autoscaler may add up to; at least ``min``."""

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
    """Nodes of one job or service alone: a head and its workers, freed when the job or service is gone."""

    size: Name = "small"
    """A size of the team, for the head and for each worker."""
    workers: Workers = Field(default_factory=Workers)
    """Worker nodes beside the head; ``2`` or ``0..4``."""
    backend: str | None = None
    """Overrides the team's backend."""

    def as_cluster(self) -> ClusterSpec:
        """The spec of a cluster with such nodes; not checked again: stored nodes may be older than today's rules."""
        return ClusterSpec.model_construct(size=self.size, workers=self.workers, backend=self.backend)


class ClusterSpec(Spec):
    """The cluster that a user wants."""

    size: Name = "small"
    """A size of the team, for the head and each worker; on the local backend its cores are logical."""
    workers: Workers = Field(default_factory=Workers)
    """Worker nodes beside the head; ``2`` or ``0..4``."""
    backend: str | None = None
    """Overrides the team's backend."""
    address: str | None = None
    """The dashboard's URL of a Ray cluster that already runs (backend `existing`)."""
    idle_timeout: Time | None = None
    """Seconds without job, client or Serve application after which the reconciler suspends it; default: the team's."""
    delete_after_idle: Seconds | None = None
    """Seconds suspended for idleness after which the reconciler deletes the whole cluster; default: the team's."""
    max_lifetime: Time | None = None
    """Seconds after its creation at which the reconciler suspends and deletes it, used or not; default: the team's."""
    suspended: bool = False
    """True if a user wants it to hold no compute. An idle cluster is suspended by ``status.suspension`` instead."""

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
"""The rule of ``require_cluster_or_nodes``, in JSON Schema's words."""


def require_cluster_or_nodes(cluster: str | None, nodes: Nodes | None) -> None:
    """Raise ValueError unless exactly one is set: the cluster to run on, or nodes of its own."""
    if cluster is not None and nodes is not None:
        raise ValueError(
            "'cluster' and 'nodes' exclude each other: name a cluster to be on, or ask for nodes of its own"
        )
    if cluster is None and nodes is None:
        raise ValueError("say where: name a 'cluster', or ask for 'nodes' of its own, such as nodes: {size: small}")


class Endpoint(Record):
    """Addresses of a ready cluster. URLs contain no secret; only its owner can read the token's file."""

    dashboard_url: str
    """Base URL of the Ray dashboard: Jobs and Serve REST."""
    reach: Literal["own", "allowed", "placed"] = "own"
    """Owner of that address and its permission to be called. ``own``: the platform itself. ``allowed``: a third party,
    and the settings must allow the address at each call. ``placed``: a third party, and a platform admin set it."""
    client_address: str | None = None
    """``ray://host:port`` for Ray Client."""
    token_path: str | None = None
    """File with Ray's own token, on the gateway's host; None if the cluster needs none."""
    serve_url: str | None = None
    """Base URL of Ray Serve's HTTP."""
    metrics_targets: list[str] = Field(default_factory=list)
    """``host:port`` of every Ray node's (and Serve's) exporter."""


class Suspension(Record):
    """Reason and time of a suspension that the platform, not a user, decided."""

    reason: Literal["Idle", "Lifetime"]
    """Idle: the cluster was unused; the next job, client or service resumes it. Lifetime: ``max_lifetime`` is over; the
    reconciler deletes it."""
    message: str = ""
    """The reason in a sentence."""
    at: Instant
    """Time of the decision."""
    delete_at: Instant | None = None
    """Time at which the whole cluster is deleted, unless it is resumed or extended before; None: it stays."""


class ClusterStatus(Status):
    """Phases: Pending, Starting, Ready, Failed, Suspending, Suspended, Deleting."""

    endpoint: Endpoint | None = None
    """Addresses of its Ray; None unless the cluster is ready."""
    environment: Environment | None = None
    """Interpreter and libraries of its nodes; None while unknown."""
    ready_at: Instant | None = None
    """Time at which the current head became ready."""
    incarnation: str | None = None
    """Id of the current head, another one for each new head: a job of an earlier incarnation is lost."""
    suspension: Suspension | None = None
    """Set while the platform itself keeps it suspended; a user suspends with ``spec.suspended``."""
    idle_since: Instant | None = None
    """Start of the current idleness; None while the cluster is in use, or while its use is unknown."""
    kept_until: Instant | None = None
    """End of the time for which a user's ``extend`` forbids suspension for idleness."""
    lives_until: Instant | None = None
    """End of its life as extended by a user, where that is later than ``max_lifetime`` says."""
    placed: bool = False
    """True if a platform admin set ``spec.address``: the settings then need not allow it."""

    @property
    def is_over(self) -> bool:
        """True once the platform suspended it because its lifetime is over."""
        return self.suspension is not None and self.suspension.reason == "Lifetime"


class Lease(Record):
    """A row of the ledger: compute held from ``started_at`` until ``ended_at`` (open while None)."""

    id: str
    team: str
    cluster_uid: str
    """Uid of the holder: a cluster, or a job or service with nodes of its own."""
    cluster: str
    """Name of the holder: the cluster's, or ``job/<name>`` or ``service/<name>``."""
    cpu: float
    memory: float
    gpu: float
    started_at: Instant
    ended_at: Instant | None = None


class ClusterUsage(Record):
    """Compute that one cluster held over a period, in resource-seconds: amount held times seconds held."""

    cluster: str
    cluster_uid: str
    node_seconds: float = 0
    core_seconds: float = 0
    gib_seconds: float = 0
    """GiB of memory times seconds."""
    gpu_seconds: float = 0
    open: int = 0
    """Number of its leases that are open now: one for each node it holds."""
