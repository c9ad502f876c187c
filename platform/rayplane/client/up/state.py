"""State files that the local platform's parts share: platform.json (ports, URLs) and supervisor.json (health)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rayplane.settings import Home

ChildState = Literal["starting", "healthy", "unhealthy", "waiting", "port-taken", "stopped"]
"""waiting: it ended and is restarted after its back-off. stopped: no supervisor restarts it."""


M = TypeVar("M", bound=BaseModel)


class PlatformState(BaseModel):
    """Choices of `up`, by which clients find the gateway. Kept while the platform is down, to keep the same ports."""

    model_config = ConfigDict(extra="ignore")
    home: str
    gateway_url: str
    mlflow_url: str
    prometheus_url: str | None = None
    ports: dict[str, int] = Field(default_factory=dict)
    pinned: list[str] = Field(default_factory=list)
    """Names of the children whose ports the user set."""
    local_users: bool = False
    """True if each team's clusters run as a Unix user of that team."""


class ChildReport(BaseModel):
    """One child's state, as the supervisor last observed it."""

    model_config = ConfigDict(extra="ignore")
    name: str
    state: ChildState
    pid: int | None = None
    port: int
    url: str
    health: str
    log: str
    restarts: int = 0
    message: str = ""
    fingerprint: str = ""
    """Hash of the command, environment and configuration that the child was started with."""


class SupervisorReport(BaseModel):
    """States of all children, as the supervisor last observed them."""

    model_config = ConfigDict(extra="ignore")
    pid: int = 0
    """The supervisor's pid, by which a report of an earlier supervisor is recognized."""
    children: dict[str, ChildReport] = Field(default_factory=dict)


def report_path(home: Home) -> Path:
    """Path of the supervisor's report."""
    return home.path / "supervisor.json"


def read_state(home: Home) -> PlatformState | None:
    """Choices of the last `up`; None if there was none, or if the file is damaged (`up` then chooses ports again)."""
    return _read(home.state, PlatformState)


def write_state(home: Home, state: PlatformState) -> None:
    """Replace platform.json atomically."""
    _write(home.state, state)


def read_report(home: Home) -> SupervisorReport:
    """The supervisor's last report; empty if there is none, or if the file is damaged."""
    return _read(report_path(home), SupervisorReport) or SupervisorReport()


def write_report(home: Home, report: SupervisorReport) -> None:
    """Replace supervisor.json atomically."""
    _write(report_path(home), report)


def _read(path: Path, model: type[M]) -> M | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _write(path: Path, value: BaseModel) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(value.model_dump_json(indent=1) + "\n")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
