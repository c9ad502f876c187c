"""Team: the owner of all other objects, with its members, quota and node sizes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema, model_validator

from rayplane.nouns.base import (
    MAX_NAME,
    NAME,
    Count,
    Name,
    Plain,
    Quantity,
    Record,
    Seconds,
    Spec,
    Status,
    Time,
    check_name,
)

Role = Literal["viewer", "member", "admin"]
Data = Literal["archive", "purge"]
"""The fate of a deleted team's data: kept where no team of its name finds it, or deleted."""

ARCHIVED = "~"
"""Stands in the name under which a deleted team's records are kept, and in no team's name."""


class Quota(Spec):
    """Limits of a team: the compute that its clusters may request together, and its jobs; null means no limit."""

    cpu: Quantity | None = None
    """Cores."""
    memory: Quantity | None = None
    """Bytes."""
    gpu: Quantity | None = None
    """Devices."""
    clusters: Count | None = None
    """Clusters, suspended ones too. A job or a service with nodes of its own counts as one."""
    jobs: Count | None = 10_000
    """Jobs that have not ended, waiting or running."""


class Size(Spec):
    """A node size that an admin defines for a team."""

    cpu: Quantity
    """Cores of a node."""
    memory: Quantity
    """Bytes of memory of a node."""
    gpu: Quantity = 0
    """GPUs of a node."""
    logical_cpu: Quantity | None = None
    """CPUs that Ray's scheduler hands out on such a node, to let it hand out more than the cores; default: ``cpu``."""

    @property
    def ray_cpu(self) -> int:
        """Value of Ray's ``--num-cpus``: whole CPUs, at least one."""
        return max(1, round(self.cpu if self.logical_cpu is None else self.logical_cpu))


def _default_sizes() -> dict[str, Size]:
    return {"small": Size(cpu=8, memory=8 * 2**30), "medium": Size(cpu=16, memory=16 * 2**30)}


_RESERVED = frozenset({"ajax-api", "api", "static-files", "workspaces"})
"""Workspace names that MLflow refuses."""
_MLFLOW = "mlflow"
"""Folder of the storage root with the artifacts of all teams' runs."""


TeamName = Annotated[Name, WithJsonSchema({"type": "string", "pattern": NAME, "minLength": 2, "maxLength": MAX_NAME})]
"""A team's name; ``check_team_name`` refuses others."""


RecordedTeam = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": f"{NAME[:-1]}({ARCHIVED}[0-9a-f]{{32}})?$", "minLength": 2})
]
"""The name under which a team's ledger and audit log are kept: the team's, or that of a deleted one."""
_ARCHIVE = re.compile(f"{ARCHIVED}[0-9a-f]{{32}}$")


def check_recorded_team(value: str) -> str:
    """A name under which a ledger may be kept; raises ValueError that says which rule is broken."""
    check_team_name(check_name(_ARCHIVE.sub("", value)))
    return value


def check_team_name(value: str) -> str:
    """Return ``value`` if MLflow accepts it as the team's workspace too; raise ValueError naming the broken rule."""
    if len(value) < 2:
        raise ValueError(f"'{value}' has {len(value)} character; a team's name has at least 2, as its MLflow workspace")
    if value in _RESERVED:
        raise ValueError(f"'{value}' is a part of MLflow's own addresses; give the team another name")
    if value == _MLFLOW:
        raise ValueError(f"'{value}' is the folder of all teams' artifacts; give the team another name")
    return value


def archived_name(name: str, uid: str) -> str:
    """The name under which the records of a deleted team are kept."""
    return f"{name}{ARCHIVED}{uid}"


class TeamSpec(Spec):
    """A team's members, quota, node sizes, and defaults and limits for its clusters."""

    backend: str = "local"
    """Source of its compute: a name of the plug-in family `backends`."""
    members: dict[Plain, Role] = Field(default_factory=dict)
    """Principal -> role: a viewer reads, a member also writes, an admin also changes the team."""
    quota: Quota = Field(default_factory=Quota)
    """Limits of what the team may hold at once."""
    sizes: dict[Name, Size] = Field(default_factory=_default_sizes, json_schema_extra={"minProperties": 1})
    """Name -> node size that clusters, jobs and services of the team may ask for."""
    idle_timeout: Time | None = Field(default=None, gt=0)
    """Seconds: default of the clusters' ``idle_timeout``, and the greatest value that one may set; None: no limit."""
    delete_after_idle: Seconds | None = None
    """Seconds: default and greatest value of the clusters' ``delete_after_idle``; None: no limit."""
    max_lifetime: Time | None = Field(default=None, gt=0)
    """Seconds: default and greatest value of the clusters' ``max_lifetime``; None: no limit."""
    max_extension: Seconds = 24 * 3600
    """Seconds from now by which `extend` may postpone a cluster's suspension, and its end beyond ``max_lifetime``."""

    @model_validator(mode="after")
    def _has_a_size(self) -> TeamSpec:
        if not self.sizes:
            raise ValueError("a team needs at least one size")
        return self


class TeamStatus(Status):
    """The parts of a team that the reconciler made in MLflow, Feast and the backends.

    Phases: Pending, Ready, Deleting.
    """

    mlflow_workspace: str | None = None
    """Its own in MLflow: no earlier team of its name had it."""
    feast_project: str | None = None
    """Its own in Feast: no earlier team of its name had it."""
    places: dict[str, str] = Field(default_factory=dict)
    """Backend -> the parts that the team's place there (its namespace on Kubernetes) lacks; empty once complete."""
    data: Data | None = None
    """Fate of its data, archived or purged; set once it is being deleted."""
    archived_as: str | None = None
    """The name under which its records are kept then."""


class Usage(Record):
    """Compute that a team's clusters hold at an instant, in cores, bytes and devices."""

    clusters: int = 0
    cpu: float = 0
    memory: float = 0
    gpu: float = 0
