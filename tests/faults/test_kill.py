"""kill -9 of each process of the platform, in turn and all at once: it recovers, and `down` leaves nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from rayplane import processes
from tests.support.local_platform import LocalPlatform, local_platform, until

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """A platform whose processes may be killed."""
    with local_platform(tmp_path_factory.mktemp("killed") / "home") as made:
        yield made


def kill(platform: LocalPlatform, name: str) -> int:
    """Kill the process of this name with SIGKILL; return its pid."""
    pid = int(platform.process(name)["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


def healthy_again(platform: LocalPlatform, name: str, killed: int, *, seconds: float = 90) -> None:
    def recovered() -> bool:
        now = platform.process(name)
        return now["state"] == "healthy" and now["pid"] != killed

    until(recovered, seconds=seconds, what=f"{name} was started again")


@pytest.mark.parametrize("name", ["gateway", "mlflow", "prometheus"])
def test_the_supervisor_starts_a_killed_child_again_on_its_port(platform: LocalPlatform, name: str) -> None:
    if name == "prometheus" and platform.state.prometheus_url is None:
        pytest.skip("'prometheus' is missing: run 'make tools'")
    before = platform.process(name)
    killed = kill(platform, name)
    healthy_again(platform, name, killed)
    after = platform.process(name)
    assert after["port"] == before["port"]
    assert after["restarts"] == before["restarts"] + 1


def test_recorded_objects_are_still_there_after_the_gateway_was_killed(platform: LocalPlatform) -> None:
    with platform.client as api:
        api.teams.apply("lasting", spec={})
        uid = api.teams.get("lasting").metadata.uid
        healthy_again(platform, "gateway", kill(platform, "gateway"))
        assert api.teams.get("lasting").metadata.uid == uid


def test_children_of_a_killed_supervisor_keep_running_and_up_adopts_them(platform: LocalPlatform) -> None:
    children = {p["name"]: p["pid"] for p in platform.status()["processes"] if p["name"] != "supervisor"}
    killed = kill(platform, "supervisor")
    assert httpx.get(f"{platform.state.gateway_url}/healthz", timeout=30).status_code == 200
    assert platform.status()["state"] == "degraded"
    platform.rayplane("up")
    pids = {p["name"]: p["pid"] for p in platform.status()["processes"]}
    assert pids.pop("supervisor") != killed
    assert pids == children, "healthy children are adopted, not restarted"


def test_a_killed_supervisor_and_child_are_both_recovered(platform: LocalPlatform) -> None:
    ports = platform.state.ports
    gateway = kill(platform, "gateway")
    kill(platform, "supervisor")
    platform.rayplane("up")
    assert platform.status()["state"] == "up"
    assert platform.process("gateway")["pid"] != gateway
    assert platform.state.ports == ports


def test_up_recovers_after_everything_was_killed_at_once(platform: LocalPlatform) -> None:
    ports = platform.state.ports
    pids = processes.marked(platform.home.id)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not processes.marked(platform.home.id), seconds=30, what="all processes are gone")
    assert platform.status()["state"] == "down"
    platform.rayplane("up")
    assert platform.status()["state"] == "up"
    assert platform.state.ports == ports
    assert len(processes.marked(f"{platform.home.id}/supervisor")) == 1


def test_down_works_when_supervisor_and_gateway_were_killed_and_spares_the_other_platform(
    platform: LocalPlatform, platform_up: LocalPlatform
) -> None:
    others = {p["name"]: p["pid"] for p in platform_up.status()["processes"]}
    assert not set(platform.state.ports.values()) & set(platform_up.state.ports.values())
    kill(platform, "supervisor")
    kill(platform, "gateway")
    started = time.monotonic()
    platform.rayplane("down")
    assert time.monotonic() - started < 60
    assert platform.left_over() == []
    platform.rayplane("down")
    assert {p["name"]: p["pid"] for p in platform_up.status()["processes"]} == others
    assert platform_up.status()["state"] == "up"
