"""Events that workers send to the gateway: versioned, delivered at least once, deduplicated by their id."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rayplane.nouns.base import Instant, JsonObject, Record, Text, utcnow

EventType = Literal[
    "dataset.published",  # data: DatasetVersion
    "output.recorded",  # data: {name, value}
    "run.started",  # data: {run_id, attempt}
    "run.finished",  # data: {run_id, status}
    "features.materialized",  # data: Materialization
    "model.registered",  # data: ModelVersion
    "gate.judged",  # data: GateReport
    "source.observed",  # data: {name, uri, content_hash, rows}
    "lineage",  # data: Edge
    "attempt.ended",  # data: {}; the entrypoint's process ended, and Ray will report so in a moment
]


class Event(Record):
    """One fact that a job reports. The id makes a second delivery harmless."""

    id: Text
    type: EventType
    time: Instant = Field(default_factory=utcnow)
    submission_id: Text | None = None
    data: JsonObject = Field(default_factory=dict)


class EventBatch(Record):
    """The body that a worker posts to ``/v1/events``."""

    events: list[Event] = Field(min_length=1, max_length=1000)


class Edge(Record):
    """One edge of lineage: ``target`` was made from ``source``.

    Nodes are strings: ``source:<uri>#<hash>``, ``dataset:<name>@<version>``, ``view:<name>@<dataset version>``,
    ``run:<run id>``, ``model:<name>/<version>``, ``service:<name>#<revision>``, ``job:<name>``.
    """

    source: str
    target: str


class Operation(Record):
    """Work that goes on after the answer: the Location header of a 202 names it."""

    id: str
    team: str
    kind: str
    name: str
    uid: str
    generation: int
    action: Literal["apply", "delete", "run", "stop", "suspend", "resume", "extend"]
    state: Literal["running", "succeeded", "failed"] = "running"
    message: str = ""
    created_at: Instant = Field(default_factory=utcnow)
