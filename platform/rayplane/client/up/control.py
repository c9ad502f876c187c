"""`up` and `down`: start or stop the local platform, from whatever state a crash left it in."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

from rayplane import local_users, processes, trees
from rayplane.client.up import configuration, credentials, health, logs, plan, ports, room, tools
from rayplane.client.up.room import Say
from rayplane.client.up.state import (
    ChildReport,
    PlatformState,
    read_report,
    read_state,
    report_path,
    write_state,
)
from rayplane.client.up.view import PlatformView, cluster_records, known_records, look
from rayplane.errors import Conflict, Failed, PortTaken, RayplaneError, Timeout, Unavailable
from rayplane.processes import ProcessRecord
from rayplane.settings import GatewaySettings, Home

NOT_FOUND = (
    "prometheus was not found on PATH or in the tools cache: the platform goes on without it. "
    "Get it with 'make tools', then: rayplane down; rayplane up"
)
ENDS_ALLOWED = 3
"""Number of times that a child may end while `up` waits for it, before `up` gives up."""
CHOICES = 3
"""Number of times that `up` chooses ports, since other processes may take the chosen ones."""


def up(settings: GatewaySettings, *, say: Say, timeout: float = 240.0) -> PlatformView:
    """Start the home's platform and wait until all of it is healthy; succeeds if it runs already.

    Adopts healthy children of an earlier supervisor and stops other remains. If it fails and nothing ran before, it
    stops all that it started. Raises PortTaken, StorageFull, InvalidInput (home, settings), Unsupported (packages),
    Conflict (the platform runs already with another port or another RAYPLANE_LOCAL_USERS), Unavailable or Timeout (a
    child does not come up).
    """
    home = settings.home_paths
    tools.require_packages()
    local_users.require(settings)
    room.prepare(home)
    with room.locked(home, say, timeout=timeout), room.explained(home.path):
        nothing_before = not processes.marked(home.id)
        try:
            _up(settings, home, say, time.monotonic() + timeout)
        except (RayplaneError, OSError, KeyboardInterrupt):
            if nothing_before:
                _stop_all(home, say)
            raise
    return look(home)


def followed(home: Home, to: TextIO) -> AbstractContextManager[None]:
    """Print the logs of the platform's processes while the ``with`` block runs."""
    return logs.printed([home.logs / f"{name}.log" for name in (plan.SUPERVISOR, plan.GATEWAY, plan.MLFLOW)], to=to)


def stay(home: Home) -> None:
    """Block until this process is interrupted; raises KeyboardInterrupt then, or Failed if the supervisor ends."""
    supervisor = known_records(home).get(plan.SUPERVISOR)
    while supervisor is not None and processes.alive(supervisor):
        time.sleep(0.5)
    raise Failed("The supervisor ended.", remedy=_log_excerpt(supervisor.log if supervisor else None, home))


def down(home: Home, *, say: Say) -> list[str]:
    """Stop all processes of the home, including clusters; return their names. Removes their temporary folders.

    Needs neither gateway nor database. Succeeds if nothing runs. Raises Unavailable naming pids that survive SIGKILL.
    """
    if not home.path.is_dir():
        return []
    with room.locked(home, say, timeout=120):
        return _stop_all(home, say)


def _up(settings: GatewaySettings, home: Home, say: Say, deadline: float) -> None:
    for choice in range(1, CHOICES + 1):
        supervisor = known_records(home).get(plan.SUPERVISOR)
        state = read_state(home)
        if supervisor is None or state is None or not processes.alive(supervisor):
            state, supervisor = _launch(settings, home, say)
        else:
            _require_same_port(settings, state)
            _require_same_users(settings, home, state.local_users)
        try:
            _wait(home, supervisor, _names(state), say, deadline)
        except PortTaken as exc:
            # Another process took the port after it was chosen. Unless the user fixed the ports, choose again. The
            # children that could not start are new ones then, so delete the report, which counts their restarts.
            if state.pinned or choice == CHOICES:
                raise
            say(f"{exc.detail} Other ports are chosen.")
            processes.stop(supervisor, grace=30)
            report_path(home).unlink(missing_ok=True)
        else:
            return


def _launch(settings: GatewaySettings, home: Home, say: Say) -> tuple[PlatformState, ProcessRecord]:
    """Choose ports, write secrets and configuration, and start the supervisor."""
    _require_same_users(settings, home, settings.local_users)
    _clean_remains(home)
    shut_teams = local_users.prepare(settings)
    if shut_teams:
        say(f"the files of {', '.join(shut_teams)} in the storage root become those of each team's own user")
    binary = tools.find("prometheus")
    if binary is None:
        say(NOT_FOUND)
    state = _choose_ports(settings, home, with_prometheus=binary is not None)
    known = credentials.ensure(home)
    configuration.write_mlflow(home)
    if binary is not None:
        configuration.write_prometheus(
            home, gateway_url=plan.local_url(settings.host, state.ports[plan.GATEWAY]), token=known.metrics
        )
    write_state(home, state)
    say("starting " + ", ".join(f"{name} (port {state.ports[name]})" for name in _names(state)))
    supervisor = processes.start(
        plan.SUPERVISOR,
        [sys.executable, "-m", "rayplane.client.up.supervisor"],
        mark=f"{home.id}/{plan.SUPERVISOR}",
        log=home.logs / "supervisor.log",
        records=home.processes,
        env={**os.environ, "RAYPLANE_HOME": str(home.path)},
        cwd=home.path,
    )
    return state, supervisor


def _clean_remains(home: Home) -> None:
    """Stop what a dead supervisor or a killed child left running; keep living children, which may be adopted."""
    processes.stop_marked(f"{home.id}/{plan.SUPERVISOR}")
    records = known_records(home)
    for name in (plan.GATEWAY, plan.MLFLOW, plan.PROMETHEUS):
        record = records.get(name)
        if record is None or not processes.alive(record):
            processes.stop_marked(f"{home.id}/{name}")


def _choose_ports(settings: GatewaySettings, home: Home, *, with_prometheus: bool) -> PlatformState:
    known = read_state(home)
    records = known_records(home)
    required = {plan.GATEWAY: settings.port} if "port" in settings.model_fields_set else {}
    if settings.mlflow_port is not None:
        required[plan.MLFLOW] = settings.mlflow_port
    names = [plan.GATEWAY, plan.MLFLOW, *([plan.PROMETHEUS] if with_prometheus else [])]

    def ours(name: str, port: int) -> bool:
        record = records.get(name)
        return record is not None and record.port == port and processes.alive(record)

    chosen = ports.choose(
        names,
        known.ports if known else {},
        seed=home.id,
        preferred=plan.PREFERRED_PORTS,
        required=required,
        ours=ours,
        # Prometheus listens on loopback, the others where the settings say.
        is_free=lambda port: processes.is_free(port) and processes.is_free(port, settings.host),
    )
    gateway = settings.public_url or plan.local_url(settings.host, chosen[plan.GATEWAY])
    return PlatformState(
        home=str(home.path),
        gateway_url=gateway,
        mlflow_url=settings.mlflow_public_url or plan.local_url(settings.host, chosen[plan.MLFLOW]),
        prometheus_url=plan.local_url("127.0.0.1", chosen[plan.PROMETHEUS]) if with_prometheus else None,
        ports=chosen,
        pinned=sorted(required),
        local_users=settings.local_users,
    )


def _names(state: PlatformState) -> list[str]:
    known = (plan.GATEWAY, plan.MLFLOW, plan.PROMETHEUS)
    return [n for n in known if n != plan.PROMETHEUS or state.prometheus_url is not None]


def _require_same_port(settings: GatewaySettings, state: PlatformState) -> None:
    wanted, has = settings.port, state.ports.get(plan.GATEWAY)
    if "port" in settings.model_fields_set and wanted != has:
        raise Conflict(
            f"The platform runs already, its gateway on port {has}, not {wanted}.",
            remedy="Run 'rayplane down' first, or leave the port out.",
        )


def _require_same_users(settings: GatewaySettings, home: Home, running: bool) -> None:
    """Raise Conflict if the running platform, or one of its clusters, was started with another RAYPLANE_LOCAL_USERS."""
    wanted = settings.local_users
    heads = [head for head in cluster_records(home) if processes.alive(head)]
    differing = [f"{head.team}/{head.cluster}" for head in heads if (head.user is not None) != wanted]
    if running == wanted and not differing:
        return
    subject = f"cluster {', '.join(differing)} runs" if differing else "it runs"
    how = "as the platform's user" if wanted else "as a user of its team"
    raise Conflict(
        f"RAYPLANE_LOCAL_USERS is {str(wanted).lower()} now, and {subject} {how}.",
        remedy="Run 'rayplane down' first, which ends what runs on the clusters; 'rayplane up' starts them anew.",
    )


def _wait(home: Home, supervisor: ProcessRecord, names: Sequence[str], say: Say, deadline: float) -> None:
    """Wait until every child is healthy and the gateway is ready; say once when each becomes healthy."""
    began, announced = time.monotonic(), set[str]()
    earlier = {name: child.restarts for name, child in read_report(home).children.items()}
    while True:
        report = read_report(home)
        # An earlier supervisor's report may call children healthy that have died since.
        children = report.children if report.pid == supervisor.pid else {}
        if not processes.alive(supervisor):
            raise Failed("The supervisor ended.", remedy=_log_excerpt(supervisor.log, home))
        for name in names:
            child = children.get(name)
            if child is None:
                continue
            if child.state == "healthy" and name not in announced:
                announced.add(name)
                say(f"{name} is healthy after {time.monotonic() - began:.1f} s: {child.url}")
            _raise_if_hopeless(child, earlier.get(name, 0), home)
        if announced.issuperset(names) and _ready(children[plan.GATEWAY]):
            return
        if time.monotonic() > deadline:
            missing = [n for n in names if n not in announced] or [plan.GATEWAY]
            logs = ", ".join(str(home.logs / f"{n}.log") for n in missing)
            raise Timeout(f"{', '.join(missing)} did not become healthy in time.", remedy=f"Read {logs}.")
        time.sleep(0.1)


def _ready(gateway: ChildReport) -> bool:
    return health.answers(gateway.health.removesuffix("/healthz") + "/readyz")


def _raise_if_hopeless(child: ChildReport, earlier: int, home: Home) -> None:
    if child.state == "port-taken":
        raise PortTaken(
            f"Port {child.port} for {child.name} was taken by another process.",
            remedy="Stop that process, or ask for another port.",
        )
    if child.restarts - earlier >= ENDS_ALLOWED and child.state == "waiting":
        room.require_room(home)  # the likeliest reason, and clearer than the child's log
        raise Unavailable(
            f"{child.name} does not stay up: it ended {child.restarts - earlier} times.\n{_tail(Path(child.log))}\n",
            remedy=f"Read {child.log}, then run 'rayplane up' again.",
        )


def _log_excerpt(log: str | None, home: Home) -> str:
    path = Path(log) if log else home.logs / "supervisor.log"
    return f"Its log '{path}' ends:\n{_tail(path)}"


def _tail(path: Path, lines: int = 12) -> str:
    if not path.is_file():
        return "(no log)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _stop_all(home: Home, say: Say) -> list[str]:
    """Stop all: first the supervisor, which would restart children, then the gateway, which would restart clusters."""
    stopped = [p.name for p in look(home).processes if p.pid]
    if stopped:
        say(f"stopping {', '.join(stopped)}")
    supervisor = known_records(home).get(plan.SUPERVISOR)
    if supervisor is not None:
        processes.stop(supervisor, grace=30)
    processes.stop_marked(f"{home.id}/{plan.SUPERVISOR}", grace=30)
    processes.stop_marked(f"{home.id}/{plan.GATEWAY}", grace=15)
    processes.stop_marked(home.id, grace=10)
    for head in cluster_records(home):
        processes.stop(head, grace=10)  # processes that a head which died earlier left in its session
    _kill_team_users(home, say)
    for folder in (home.processes / "clusters", home.processes):
        for record in folder.glob("*.json"):
            record.unlink(missing_ok=True)
    report_path(home).unlink(missing_ok=True)
    for path in _temporary_folders(home):
        if not path.is_dir() or path.is_symlink():
            continue
        try:
            trees.remove(path)
        except Unavailable as exc:  # such as another user's
            say(str(exc))
    return stopped


def _kill_team_users(home: Home, say: Say) -> None:
    """Kill processes that still run as a team's user: they escaped when their cluster was stopped."""
    try:
        users = [known.number for known in local_users.read(home).teams.values()]
    except Unavailable as exc:  # 'down' goes on despite damaged files
        say(str(exc))
        return
    if os.geteuid() == 0:
        processes.stop_pids(lambda: processes.of_users(users), grace=0)


def _temporary_folders(home: Home) -> list[Path]:
    """Ray's temporary folders of this home's clusters, which have the home's id in their names."""
    roots = {Path(tempfile.gettempdir()), Path("/tmp")}  # noqa: S108  used by a head if gettempdir()'s path is too long
    return sorted(path for root in roots for path in root.glob(f"rp-{home.id}-*"))
