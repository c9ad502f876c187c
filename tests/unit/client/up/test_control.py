"""`down` and `status` on homes with dead processes and damaged files, with real processes; refusals of `up`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import local_users, processes
from rayplane.client.up import control, state, tools, view
from rayplane.errors import Conflict, Failed, InvalidInput, PortTaken, Unsupported
from rayplane.processes import ProcessRecord
from rayplane.settings import GatewaySettings, Home

SLEEPER = "import time; time.sleep(600)"


@pytest.fixture
def home(tmp_home: Path) -> Iterator[Home]:
    made = Home(tmp_home)
    yield made
    processes.stop_marked(made.id, grace=1)


def sleeper(home: Home, name: str, *, records: Path | None = None, argv: list[str] | None = None) -> ProcessRecord:
    return processes.start(
        name,
        argv or [sys.executable, "-c", SLEEPER],
        mark=f"{home.id}/{name}",
        log=home.logs / f"{name}.log",
        records=records or home.processes,
        env=dict(os.environ),
    )


def quiet(text: str) -> None:
    del text


def test_down_succeeds_where_no_platform_ever_was(tmp_path: Path) -> None:
    assert control.down(Home(tmp_path / "nothing"), say=quiet) == []
    assert not (tmp_path / "nothing").exists()


def test_down_stops_supervisor_children_and_clusters_and_is_idempotent(home: Home) -> None:
    for name in ("supervisor", "gateway", "mlflow"):
        sleeper(home, name)
    sleeper(home, "ray-1234", records=home.processes / "clusters")
    stopped = control.down(home, say=quiet)
    assert processes.marked(home.id) == []
    assert set(stopped) >= {"supervisor", "ray-1234"}
    assert list(home.processes.rglob("*.json")) == []
    assert control.down(home, say=quiet) == []


def test_down_stops_processes_without_a_record_and_those_that_ignore_sigterm(home: Home) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
    record = sleeper(home, "gateway", argv=[sys.executable, "-c", stubborn])
    (home.processes / "gateway.json").unlink()
    (home.processes / "mlflow.json").write_text("{ damaged")
    control.down(home, say=quiet)
    assert not processes.alive(record)


def test_down_works_despite_damaged_records(home: Home) -> None:
    record = sleeper(home, "ray-1234", records=home.processes / "clusters")
    (home.processes / "clusters" / "ray-5678.json").write_text('{"name": "ray-5678"')
    (home.processes / "mlflow.json").write_bytes(b"\xff")
    control.down(home, say=quiet)
    assert not processes.alive(record)
    assert list(home.processes.rglob("*.json")) == []


def test_down_leaves_another_home_alone(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    record = sleeper(other, "gateway")
    try:
        sleeper(home, "gateway")
        control.down(home, say=quiet)
        assert processes.alive(record)
    finally:
        processes.stop_marked(other.id, grace=1)


def test_down_removes_the_homes_temporary_folders_and_no_others(home: Home) -> None:
    mine = Path(tempfile.mkdtemp(prefix=f"rp-{home.id}-"))
    foreign = Path(tempfile.mkdtemp(prefix="rp-0000000000-"))
    try:
        (mine / "session").mkdir()
        control.down(home, say=quiet)
        assert not mine.exists()
        assert foreign.exists()
    finally:
        foreign.rmdir()


def test_status_without_a_supervisor_names_the_unsupervised_processes(home: Home) -> None:
    record = sleeper(home, "gateway")
    report = state.ChildReport(
        name="gateway",
        state="healthy",
        pid=record.pid,
        port=1,
        url="http://127.0.0.1:1",
        health="http://127.0.0.1:1/",
        log="",
    )
    state.write_report(home, state.SupervisorReport(pid=1, children={"gateway": report}))
    platform = view.look(home)
    assert platform.state == "degraded"
    gateway = next(p for p in platform.processes if p.name == "gateway")
    assert gateway.state == "unhealthy"
    assert "rayplane up" in gateway.message


def test_status_corrects_a_report_of_a_child_that_has_died_since(home: Home) -> None:
    sleeper(home, "supervisor")
    record = sleeper(home, "gateway")
    report = state.ChildReport(
        name="gateway",
        state="healthy",
        pid=record.pid,
        port=1,
        url="http://127.0.0.1:1",
        health="http://127.0.0.1:1/",
        log="",
    )
    state.write_report(home, state.SupervisorReport(pid=1, children={"gateway": report}))
    assert view.look(home).state == "up"
    os.kill(record.pid, signal.SIGKILL)
    os.waitpid(record.pid, 0)
    assert view.look(home).state == "degraded"


def test_a_damaged_state_file_counts_as_missing(home: Home) -> None:
    home.state.write_text("{")
    assert state.read_state(home) is None
    assert view.look(home).state == "down"


def test_up_on_a_taken_port_says_so_and_starts_nothing(home: Home) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        settings = GatewaySettings(home=home.path, port=stranger.getsockname()[1])
        with pytest.raises(PortTaken):
            control.up(settings, say=quiet)
    assert processes.marked(home.id) == []
    assert not home.state.exists()


def test_up_in_a_thin_clients_environment_names_the_packages_to_install(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "NEEDED", {"no_such_module": "the gateway"})
    with pytest.raises(Unsupported, match="no_such_module") as caught:
        control.up(GatewaySettings(home=home.path), say=quiet)
    assert caught.value.remedy is not None
    assert "rayplane[local]" in caught.value.remedy


def test_the_command_ends_with_the_exit_code_of_its_error(home: Home) -> None:
    command = [sys.executable, "-m", "rayplane.client.cli.main"]
    code = "import sys; from rayplane.client.cli.main import main; main()"
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = str(stranger.getsockname()[1])
        done = subprocess.run(
            [command[0], "-c", code, "up", "--port", port], capture_output=True, text=True, env=os.environ, check=False
        )
    assert done.returncode == 8, done.stderr
    assert f"Port {port}" in done.stderr
    status = subprocess.run([command[0], "-c", code, "status"], capture_output=True, text=True, check=False)
    assert status.returncode == 8
    assert "is down" in status.stderr


def test_staying_in_the_foreground_prints_logs_and_ends_with_the_supervisor(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "import sys, time; time.sleep(0.5); print('all is well', flush=True); time.sleep(1); print('I die')"
    with control.followed(home, sys.stdout):
        sleeper(home, "supervisor", argv=[sys.executable, "-c", script])
        with pytest.raises(Failed) as raised:
            control.stay(home)
    assert "supervisor: all is well" in capsys.readouterr().out
    assert "I die" in str(raised.value)


def test_staying_in_the_foreground_without_a_supervisor_fails_at_once(home: Home) -> None:
    with pytest.raises(Failed, match="supervisor"):
        control.stay(home)


def test_a_child_that_lost_the_race_for_its_port_counts_no_restart_on_its_next_port(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([8470, 21_000])

    def launch(settings: GatewaySettings, home: Home, say: object) -> tuple[state.PlatformState, ProcessRecord]:
        """Start a stand-in for the supervisor that reports that another process took port 8470."""
        port = next(ports)
        url = f"http://127.0.0.1:{port}"
        supervisor = sleeper(home, "supervisor")
        earlier = state.read_report(home).children.get("gateway")
        restarts = (earlier.restarts if earlier else 0) + (2 if port == 8470 else 0)
        gateway = state.ChildReport(
            name="gateway",
            state="port-taken" if port == 8470 else "healthy",
            pid=supervisor.pid,
            port=port,
            url=url,
            health=f"{url}/healthz",
            log="",
            restarts=restarts,
        )
        state.write_report(home, state.SupervisorReport(pid=supervisor.pid, children={"gateway": gateway}))
        made = state.PlatformState(
            home=str(home.path),
            gateway_url=url,
            mlflow_url=url,
            prometheus_url=None,
            ports={"gateway": port},
            pinned=[],
        )
        state.write_state(home, made)
        return made, supervisor

    monkeypatch.setattr(control, "_launch", launch)
    monkeypatch.setattr(control, "_names", lambda state: ["gateway"])
    monkeypatch.setattr(control.health, "answers", lambda url: True)
    lines: list[str] = []
    control.up(GatewaySettings(home=home.path), say=lines.append)
    assert any("Other ports are chosen" in line for line in lines)
    assert state.read_report(home).children["gateway"].restarts == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_up_with_another_local_users_setting_names_the_running_clusters_and_starts_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setattr(local_users, "require", lambda _: None)
    records = home.processes / "clusters"
    for name, user in (("one", None if wanted else 61200), ("two", 61201 if wanted else None)):
        record = sleeper(home, name, records=records)
        head = view.ClusterRecord(**{**record.model_dump(), "team": "growth", "cluster": name, "user": user})
        processes.save(head, records)
    with pytest.raises(Conflict, match="cluster growth/one runs") as refusal:
        control.up(GatewaySettings(home=home.path, local_users=wanted), say=quiet)
    assert "'rayplane down' first" in (refusal.value.remedy or "")
    assert not home.state.exists()
    assert len(processes.marked(home.id)) == 2


def test_a_running_platform_keeps_its_local_users_setting(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_users, "require", lambda _: None)
    sleeper(home, "supervisor")
    state.write_state(home, state.PlatformState(home=str(home.path), gateway_url="http://x", mlflow_url="http://y"))
    with pytest.raises(Conflict, match="RAYPLANE_LOCAL_USERS is true now, and it runs as the platform's user"):
        control.up(GatewaySettings(home=home.path, local_users=True), say=quiet)
    assert view.look(home).local_users is False


def test_up_with_local_users_is_refused_for_other_users_than_root_before_any_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidInput, match="RAYPLANE_LOCAL_USERS"):
        control.up(GatewaySettings(home=tmp_path / "new", local_users=True), say=quiet)
    assert not (tmp_path / "new").exists()


def test_down_works_despite_a_damaged_list_of_users(home: Home) -> None:
    home.local_users.write_text("{")
    messages: list[str] = []
    control.down(home, say=messages.append)
    assert "is damaged" in " ".join(messages)
