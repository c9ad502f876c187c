"""Job: one run of an entrypoint, and the context that the gateway gives to its workers (RunContext)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from rayplane.nouns.base import Instant, Name, Package, Plain, Quantity, Record, Seconds, Spec, Status, Whole
from rayplane.nouns.cluster import ONE_PLACE, Endpoint, Nodes, require_cluster_or_nodes
from rayplane.nouns.environment import Environment
from rayplane.text import UNSAFE

TERMINAL = frozenset({"Succeeded", "Failed", "Stopped"})
NOT_BLANK = r"[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
"""The pattern of an entrypoint."""
_STEP_OF_A_RUN = f"^[^/{UNSAFE}]+/[^/{UNSAFE}]+/[^{UNSAFE}]+$"
UNFINISHED = frozenset({"", "Pending", "Starting", "Running"})
"""Phases of a job that has not ended; empty before the first status."""


RESERVED = ("RAYPLANE_", "RAY_")
"""Prefixes of variables that the platform and Ray set: a job that changed them would not be what its record says."""
Variables = Annotated[
    dict[str, str],
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": f"^(?!{'|'.join(RESERVED)})[^=\\u0000]+$"},
            "additionalProperties": {"type": "string", "pattern": "^[^\\u0000]*$"},
        },
        mode="validation",
    ),
]
"""Environment variables, which ``admission.env`` checks."""


class Resources(Spec):
    """Resources that the entrypoint's own process reserves in Ray."""

    cpu: Quantity = 0
    """Cores."""
    memory: Quantity = 0
    """Bytes."""
    gpu: Quantity = 0
    """Devices."""


class JobSpec(Spec):
    """The entrypoint to run, its code, and the cluster or nodes to run on."""

    model_config = ConfigDict(json_schema_extra={"oneOf": ONE_PLACE})

    entrypoint: Annotated[str, WithJsonSchema({"type": "string", "pattern": NOT_BLANK})]
    """Shell command to run, in the folder of the package."""
    cluster: Name | None = None
    """The team's cluster to run on; None with ``nodes``."""
    nodes: Nodes | None = None
    """Nodes of its own, made for each attempt and freed once the attempt's log is stored; None on a cluster."""
    package: Package | None = None
    """Content address (``sha256:<hex>``) of an uploaded code package; None: the job brings no code."""
    env: Variables = Field(default_factory=dict)
    """Environment variables; never secrets."""
    pip: list[str] = Field(default_factory=list)
    """Requirements that Ray installs before the entrypoint starts."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """Name -> value; the job reads them from its RunContext."""
    resources: Resources = Field(default_factory=Resources)
    """Resources that the entrypoint's own process reserves."""
    retries: Whole = Field(default=0, ge=0, le=20)
    """Further attempts after one that failed. The first two that were lost with their head do not count."""
    timeout: Seconds | None = None
    """Seconds from the first attempt's start to the end of the last; then the job fails. None: no limit."""
    tracked: bool = True
    """True if the reconciler allocates an MLflow run before the job starts."""
    experiment: Plain | None = None
    """MLflow experiment of its run; default: the pipeline's name, else ``jobs``."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Dataset name -> pinned version."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Source name -> URI that the job reads from outside the platform."""
    values: dict[str, Any] = Field(default_factory=dict)
    """Values recorded by earlier steps: ``<step>.<name>`` -> JSON value."""
    pipeline: Annotated[str, WithJsonSchema({"type": "string", "pattern": _STEP_OF_A_RUN})] | None = None
    """``<pipeline>/<run>/<step>`` when a pipeline run made this job."""
    submission_id: Plain | None = None
    """The id by which a stock Ray client knows this job."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Key -> value for Ray and the job's record, such as the git commit."""
    stop_requested: bool = False
    """True once a user, or the platform, asked the job to stop."""

    @field_validator("entrypoint")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not re.search(NOT_BLANK, value):
            raise ValueError("the entrypoint is blank")
        return value

    @field_validator("pipeline")
    @classmethod
    def _of_a_run(cls, value: str | None) -> str | None:
        if value is not None and not all(part for part in [*value.split("/", 2), "", ""][:3]):
            raise ValueError(f"'{value}' is no step of a run: write it as <pipeline>/<run>/<step>, or leave it out")
        return value

    @model_validator(mode="after")
    def _on_cluster_or_nodes(self) -> JobSpec:
        require_cluster_or_nodes(self.cluster, self.nodes)
        return self


class Attempt(Record):
    """One submission of the job to Ray."""

    number: int
    """Counted from 1."""
    submission_id: str
    """Ray's submission id: ``<job uid>-<number>``."""
    incarnation: str | None = None
    """Id of the Ray head that it runs on; None while unknown."""
    log_kept: bool = False
    """True once its log is in the storage root, so that nodes of its own may be freed."""
    started_at: Instant | None = None
    """Time at which the reconciler recorded it, before Ray heard of it."""
    ended_at: Instant | None = None
    """Time at which the reconciler learned of its end; None while it is under way."""
    status: str = "Pending"
    """Pending, Starting, Running, Succeeded, Failed, Stopped, TimedOut or Lost."""
    message: str = ""
    """Reason for its end; empty if it succeeded."""


class JobStatus(Status):
    """Phases: Pending, Starting, Running, Succeeded, Failed, Stopped."""

    attempts: list[Attempt] = Field(default_factory=list)
    """Submissions to Ray, oldest first."""
    run_id: str | None = None
    """MLflow run, allocated before the first attempt; None for a job that is not tracked."""
    experiment_id: str | None = None
    """MLflow experiment of that run."""
    exit_code: int | None = None
    """Exit code of the last attempt's entrypoint; None while unknown."""
    message: str = ""
    """Reason for the end; empty if the job succeeded."""
    stop_reason: str = ""
    """Reason for which the platform stopped it; empty if a user did, or if it was not stopped."""
    started_at: Instant | None = None
    """Start of the first attempt."""
    ended_at: Instant | None = None
    """End of the last attempt."""
    log_uri: str | None = None
    """URI of the kept log in the storage root."""
    environment: Environment | None = None
    """Interpreter and libraries that it runs in; None while unknown."""
    endpoint: Endpoint | None = None
    """Addresses of its own Ray, while it has nodes of its own."""
    outputs: list[Output] = Field(default_factory=list)
    """Results that the job reported: dataset versions, runs, model versions, values."""
    git_commit: str | None = None
    """Commit of the uploaded code, with ``-dirty`` if it had changes."""


class Output(Record):
    """One result of a job: a dataset version, an MLflow run, a model version, or a plain JSON value."""

    kind: Literal["dataset", "run", "model", "value"]
    """Kind of the result."""
    name: str
    """Name of the dataset, the model or the value."""
    value: Any
    """dataset: version; run: run id; model: version number as a string; value: any JSON."""


class MlflowAccess(Record):
    """MLflow's address for a worker. RAYPLANE_MLFLOW_CREDENTIALS in its environment names the credentials' file."""

    tracking_uri: str
    workspace: str


class FeastAccess(Record):
    """The team's Feast project, with the addresses of its stores, for a worker."""

    project: str
    registry_url: str
    """SQLAlchemy URL of the SQL registry."""
    online_path: str
    """The SQLite online store's path."""


class RunContext(Record):
    """Everything that the gateway tells a worker in exchange for its submission id; the same answer every time."""

    team: str
    cluster: str | None = None
    """Name of the cluster that the worker runs on; None on nodes of a job's or a service's own."""
    gateway_url: str
    storage_root: str
    job: str | None = None
    job_uid: str | None = None
    job_uri: str | None = None
    """Folder of this job in the storage root: events/, checkpoints/, driver.log."""
    submission_id: str | None = None
    attempt: int = 1
    run_id: str | None = None
    experiment: str | None = None
    parameters: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)
    values: dict[str, Any] = Field(default_factory=dict)
    pipeline: str | None = None
    git_commit: str | None = None
    environment: Environment | None = None
    mlflow: MlflowAccess | None = None
    feast: FeastAccess | None = None


JobStatus.model_rebuild()
