"""Inspect the local platform's processes, for the output of `status` and `up`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from rayplane import processes
from rayplane.client.up import health, plan
from rayplane.client.up.state import ChildReport, read_report, read_state
from rayplane.processes import ProcessRecord
from rayplane.settings import Home


class ProcessView(BaseModel):
    """One process of the platform."""

    name: str
    state: str
    pid: int | None = None
    port: int | None = None
    url: str | None = None
    restarts: int = 0
    log: str | None = None
    message: str = ""


class PlatformView(BaseModel):
    """The platform of one home. up: every part is healthy. degraded: some part is not. down: nothing runs."""

    state: Literal["up", "degraded", "down"]
    home: str
    gateway_url: str | None = None
    mlflow_url: str | None = None
    prometheus_url: str | None = None
    token_path: str
    local_users: bool = False
    """True if each team's clusters run as a Unix user of that team, as of the last `up`."""
    processes: list[ProcessView] = Field(default_factory=list)


def look(home: Home) -> PlatformView:
    """Inspect every process of the home; needs neither gateway nor supervisor."""
    state = read_state(home)
    records = known_records(home)
    supervisor = records.get(plan.SUPERVISOR)
    supervised = supervisor is not None and processes.alive(supervisor)
    own = [_supervisor(supervisor, supervised), *_children(home, records, supervised)]
    clusters = [_cluster(record) for record in cluster_records(home)]
    views = own + clusters
    if not any(p.pid for p in views):
        overall: Literal["up", "degraded", "down"] = "down"
    else:
        overall = "up" if all(p.state in ("healthy", "running") for p in own) else "degraded"
    return PlatformView(
        state=overall,
        home=str(home.path),
        gateway_url=state.gateway_url if state else None,
        mlflow_url=state.mlflow_url if state else None,
        prometheus_url=state.prometheus_url if state else None,
        token_path=str(home.token),
        local_users=state.local_users if state else False,
        processes=views,
    )


def known_records(home: Home) -> dict[str, ProcessRecord]:
    """Records of the supervisor and children, without damaged ones: their processes are also found by mark."""
    records = {}
    for path in sorted(home.processes.glob("*.json")):
        record = _record(path.stem, home)
        if record is not None:
            records[record.name] = record
    return records


class ClusterRecord(ProcessRecord):
    """Record of a cluster's head, a process that the gateway started and that outlives the gateway."""

    team: str = ""
    cluster: str = ""


def cluster_records(home: Home) -> list[ClusterRecord]:
    """Records of the heads of all teams' clusters."""
    folder = home.processes / "clusters"
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(ClusterRecord.model_validate_json(path.read_bytes()))
        except (FileNotFoundError, ValidationError):
            continue  # being written, being removed, or not a process record
    return records


def _record(name: str, home: Home) -> ProcessRecord | None:
    try:
        return processes.load(name, home.processes)
    except (FileNotFoundError, ValueError):
        return None


def _supervisor(record: ProcessRecord | None, alive: bool) -> ProcessView:
    if record is None or not alive:
        return ProcessView(name=plan.SUPERVISOR, state="stopped", log=record.log if record else None)
    return ProcessView(name=plan.SUPERVISOR, state="running", pid=record.pid, log=record.log)


def _children(home: Home, records: dict[str, ProcessRecord], supervised: bool) -> list[ProcessView]:
    reports = read_report(home).children
    return [_child(report, records.get(name), supervised) for name, report in reports.items()]


def _child(report: ChildReport, record: ProcessRecord | None, supervised: bool) -> ProcessView:
    alive = record is not None and processes.alive(record)
    state, message = str(report.state), report.message
    if not supervised:
        message = "No supervisor looks after it; run 'rayplane up'." if alive else ""
        state = ("healthy" if health.answers(report.health) else "unhealthy") if alive else "stopped"
    elif state == "healthy" and not alive:
        state, message = "waiting", "It ended just now."
    return ProcessView(
        name=report.name,
        state=state,
        pid=record.pid if alive and record else None,
        port=report.port,
        url=report.url,
        restarts=report.restarts,
        log=report.log,
        message=message,
    )


def _cluster(record: ClusterRecord) -> ProcessView:
    alive = processes.alive(record)
    return ProcessView(
        name=f"cluster {record.team}/{record.cluster}" if record.cluster else record.name,
        state="running" if alive else "stopped",
        pid=record.pid if alive else None,
        port=record.port,
        log=record.log,
    )
