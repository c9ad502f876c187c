"""`rayplane up`, `status` and `down` on real processes."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from rayplane import processes
from rayplane.gateway.mlflow_rest import MlflowRest
from tests.support.local_platform import COMMAND, LocalPlatform

pytestmark = pytest.mark.slow


def test_every_process_is_healthy_and_has_pid_port_and_log(platform_up: LocalPlatform) -> None:
    status = platform_up.status()
    assert status["state"] == "up"
    by_name = {p["name"]: p for p in status["processes"]}
    assert {"supervisor", "gateway", "mlflow"} <= by_name.keys()
    for name in ("gateway", "mlflow"):
        process = by_name[name]
        assert process["state"] == "healthy"
        assert process["restarts"] == 0
        assert Path(process["log"]).is_file()
        assert Path(f"/proc/{process['pid']}").is_dir()
    assert len({p["port"] for p in status["processes"] if p["port"]}) == len(by_name) - 1


def test_up_again_changes_nothing_and_is_quick(platform_up: LocalPlatform) -> None:
    before = {p["name"]: p["pid"] for p in platform_up.status()["processes"]}
    started = time.monotonic()
    again = platform_up.rayplane("up", "-o", "json")
    assert time.monotonic() - started < 10
    assert {p["name"]: p["pid"] for p in json.loads(again.stdout)["processes"]} == before


def test_up_on_another_port_while_it_runs_is_refused_with_a_remedy(platform_up: LocalPlatform) -> None:
    done = platform_up.rayplane("up", "--port", str(processes.free_port()), check=False)
    assert done.returncode == 5
    assert "rayplane down" in done.stderr


def test_two_ups_at_once_end_with_one_supervisor(platform_up: LocalPlatform) -> None:
    both = [
        subprocess.Popen([COMMAND, "up"], env=platform_up.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(processes.marked(f"{platform_up.home.id}/supervisor")) == 1


def test_the_gateway_asks_for_the_token_and_takes_it(platform_up: LocalPlatform) -> None:
    url = platform_up.state.gateway_url
    assert httpx.get(f"{url}/healthz").status_code == 200
    assert httpx.get(f"{url}/v1/info").status_code == 401
    info = platform_up.client.info()
    assert info["mlflow_url"] == platform_up.state.mlflow_url
    assert info["prometheus_url"] == platform_up.state.prometheus_url


def test_mlflow_accepts_its_admin_and_refuses_requests_without_a_password(platform_up: LocalPlatform) -> None:
    url = f"{platform_up.state.mlflow_url}/api/3.0/mlflow/workspaces"
    user, password = (platform_up.home.secrets / "mlflow-admin").read_text().splitlines()
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, auth=(user, "wrong")).status_code == 401
    assert httpx.get(url, auth=(user, password)).status_code == 200


def test_mlflow_accepts_its_known_host_names_and_no_others(platform_up: LocalPlatform) -> None:
    url = f"{platform_up.state.mlflow_url}/api/3.0/mlflow/workspaces"
    port = platform_up.state.ports["mlflow"]
    admin = tuple((platform_up.home.secrets / "mlflow-admin").read_text().splitlines())
    for host, status in ((f"localhost:{port}", 200), (f"127.0.0.1:{port}", 200), (f"rebound.example:{port}", 403)):
        assert httpx.get(url, auth=admin, headers={"Host": host}).status_code == status, host


def test_mlflow_refuses_a_changed_or_deleted_password_at_once(platform_up: LocalPlatform) -> None:
    url = platform_up.state.mlflow_url
    admin = MlflowRest(url, *(platform_up.home.secrets / "mlflow-admin").read_text().split())

    def answer(password: str) -> int:
        return httpx.get(f"{url}/api/3.0/mlflow/workspaces", auth=("leaver", password)).status_code

    admin.ensure_workspace("leavers", "leavers")
    try:
        admin.ensure_user("leavers", "leaver", "the-first-password")
        assert [answer("the-first-password"), answer("the-first-password")] == [200, 200]
        admin.ensure_user("leavers", "leaver", "the-second-password")
        assert [answer("the-first-password"), answer("the-second-password")] == [401, 200]
    finally:
        admin.delete_user("leaver")
    assert answer("the-second-password") == 401


def test_no_command_line_holds_a_secret(platform_up: LocalPlatform) -> None:
    secrets = [p for p in (platform_up.home.token, *platform_up.home.secrets.rglob("*")) if p.is_file()]
    words = {word for path in secrets for word in path.read_text().split() if len(word) >= 16}
    assert len(words) >= 4
    for pid in processes.marked(platform_up.home.id):
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        assert not any(word in command for word in words), command
    for path in secrets:
        assert path.stat().st_mode & 0o077 == 0, path


def test_every_listener_is_on_loopback(platform_up: LocalPlatform) -> None:
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    ports = set(platform_up.state.ports.values())
    addresses = [line.split()[3] for line in listening.splitlines()]
    ours = [address for address in addresses if int(address.rsplit(":", 1)[1]) in ports]
    assert len(ours) >= len(ports)
    assert all(address.startswith("127.") for address in ours), ours
