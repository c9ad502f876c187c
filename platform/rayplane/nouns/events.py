"""Events that workers send back: versioned, at least once, known by their id."""

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
    "attempt.ended",  # data: {}: its entrypoint's process ended, which Ray will say in a moment
]


class Event(Record):
    """One thing that happened in a job. The id makes a second delivery harmless."""

    id: Text
    type: EventType
    time: Instant = Field(default_factory=utcnow)
    submission_id: Text | None = None
    data: JsonObject = Field(default_factory=dict)


class EventBatch(Record):
    """What a worker posts to ``/v1/events``."""

    events: list[Event] = Field(min_length=1, max_length=1000)


class Edge(Record):
    """One edge of lineage: ``source`` went into ``target``.

    Nodes are strings: ``source:<uri>#<hash>``, ``dataset:<name>@<version>``, ``view:<name>@<dataset version>``,
    ``run:<run id>``, ``model:<name>/<version>``, ``service:<name>#<revision>``, ``job:<name>``.
    """

    source: str
    target: str


class Operation(Record):
    """Slow work under way: what a 202 answers with in its Location."""

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
