"""Team: who owns and pays."""

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
"""What becomes of a deleted team's data: kept where no team of its name finds it, or deleted."""

ARCHIVED = "~"
"""Stands in the name under which a deleted team's records are kept, and in no team's name."""


class Quota(Spec):
    """The most that a team's clusters may ask for together, and the most jobs it may have; null means no limit."""

    cpu: Quantity | None = None
    memory: Quantity | None = None
    gpu: Quantity | None = None
    clusters: Count | None = None
    jobs: Count | None = 10_000
    """Jobs that have not ended: those that wait, and those that run."""


class Size(Spec):
    """A node size that an admin curates."""

    cpu: Quantity
    memory: Quantity
    gpu: Quantity = 0
    logical_cpu: Quantity | None = None
    """CPUs that Ray's scheduler hands out on such a node, where they are to be more than its cores."""

    @property
    def ray_cpu(self) -> int:
        """What Ray is told with ``--num-cpus``: whole CPUs, at least one."""
        return max(1, round(self.cpu if self.logical_cpu is None else self.logical_cpu))


def _default_sizes() -> dict[str, Size]:
    return {"small": Size(cpu=8, memory=8 * 2**30), "medium": Size(cpu=16, memory=16 * 2**30)}


_TAKEN = frozenset({"ajax-api", "api", "static-files", "workspaces"})
_MLFLOW = "mlflow"
"""A folder of the storage root: the artifacts of all teams' runs."""


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
    """A name that MLflow takes for the team's workspace too; raises ValueError that says which rule is broken."""
    if len(value) < 2:
        raise ValueError(f"'{value}' has {len(value)} character; a team's name has at least 2, as its MLflow workspace")
    if value in _TAKEN:
        raise ValueError(f"'{value}' is a part of MLflow's own addresses; give the team another name")
    if value == _MLFLOW:
        raise ValueError(f"'{value}' is the folder of all teams' artifacts; give the team another name")
    return value


def archived_name(name: str, uid: str) -> str:
    """The name under which the records of a deleted team are kept."""
    return f"{name}{ARCHIVED}{uid}"


class TeamSpec(Spec):
    """What a team is given."""

    backend: str = "local"
    """Where its compute comes from: a name of the plug-in family `backends`."""
    members: dict[Plain, Role] = Field(default_factory=dict)
    quota: Quota = Field(default_factory=Quota)
    sizes: dict[Name, Size] = Field(default_factory=_default_sizes, json_schema_extra={"minProperties": 1})
    idle_timeout: Time | None = Field(default=None, gt=0)
    """What a cluster that says none has, in seconds, and the most that one may say; None: no limit."""
    delete_after_idle: Seconds | None = None
    """The same for how long a cluster stays suspended for idleness before it is deleted."""
    max_lifetime: Time | None = Field(default=None, gt=0)
    """The same for how long a cluster may live."""
    max_extension: Seconds = 24 * 3600
    """By how many seconds from now `extend` may put a cluster's end off, and its life beyond ``max_lifetime``."""

    @model_validator(mode="after")
    def _has_a_size(self) -> TeamSpec:
        if not self.sizes:
            raise ValueError("a team needs at least one size")
        return self


class TeamStatus(Status):
    """What onboarding made."""

    mlflow_workspace: str | None = None
    """Its own in MLflow: no earlier team of its name had it."""
    feast_project: str | None = None
    places: dict[str, str] = Field(default_factory=dict)
    """Backend -> what its place for the team still lacks; empty once the place is there."""
    data: Data | None = None
    """What becomes of its data; set once it is being deleted."""
    archived_as: str | None = None
    """The name under which its records are kept then."""


class Usage(Record):
    """What a team's clusters hold at an instant, in cores, bytes and devices."""

    clusters: int = 0
    cpu: float = 0
    memory: float = 0
    gpu: float = 0
