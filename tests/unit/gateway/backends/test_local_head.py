"""Ports, folders, command and environment of a local Ray head."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayplane import plugins
from rayplane.errors import PortTaken
from rayplane.gateway.backends import local_head
from rayplane.gateway.backends.base import RAY_ENVIRONMENT, LaunchContext
from rayplane.gateway.backends.local_head import HeadRecord
from rayplane.nouns.team import Size

UID = "0123456789abcdef0123456789abcdef"
LAUNCH = LaunchContext(size=Size(cpu=8, memory=8 * 2**30), env={"RAYPLANE_TEAM": "alpha", "MLFLOW_WORKSPACE": "alpha"})


def ports(uid: str = UID, attempt: int = 0, taken: set[int] | None = None) -> dict[str, int]:
    return local_head.choose_ports(uid, attempt=attempt, taken=taken or set(), is_free=lambda port: True)


def test_every_port_of_a_head_is_its_own_and_outside_of_the_workers_range() -> None:
    chosen = ports()
    services = {v for k, v in chosen.items() if not k.startswith("worker_")}
    assert len(services) == 12
    assert max(services) < chosen["worker_first"]
    assert chosen["worker_last"] - chosen["worker_first"] >= 200
    assert min(services) > 10_000
    assert chosen["worker_last"] < 20_000


def test_the_ports_stay_the_same_and_another_attempt_takes_others() -> None:
    assert ports() == ports()
    assert not set(ports().values()) & set(ports(attempt=1).values())


def test_a_block_with_a_port_in_use_is_skipped() -> None:
    first = ports()
    by_record = ports(taken={first["dashboard"]})
    by_listener = local_head.choose_ports(UID, attempt=0, taken=set(), is_free=lambda p: p != first["worker_last"])
    assert by_record == by_listener
    assert not set(first.values()) & set(by_record.values())


def test_the_error_without_a_free_block_names_the_remedy() -> None:
    with pytest.raises(PortTaken, match="Delete a cluster"):
        local_head.choose_ports(UID, attempt=0, taken=set(), is_free=lambda port: False)


def test_the_temporary_folder_is_short_and_the_same_every_time() -> None:
    folder = local_head.temp_dir("a" * 10, UID)
    assert folder == local_head.temp_dir("a" * 10, UID) != local_head.temp_dir("b" * 10, UID)
    # Ray's own: session_2026-11-23_22-19-10_929028_1234567/sockets/plasma_store
    assert len(str(folder)) + 65 <= 107


def test_a_long_temporary_folder_of_the_system_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/very" * 10)
    assert len(str(local_head.temp_dir("a" * 10, UID))) < 43


def test_the_object_store_respects_shared_memory() -> None:
    gib = 2**30
    assert local_head.object_store(8 * gib, shm_free=24 * gib) == (int(1.2 * gib), False)
    assert local_head.object_store(64 * gib, shm_free=24 * gib) == (2 * gib, False)
    assert local_head.object_store(8 * gib, shm_free=gib) == (int(0.8 * gib), False)
    assert local_head.object_store(8 * gib, shm_free=64 * 2**20) == (int(1.2 * gib), True)


def test_the_command_holds_no_secret_and_keeps_to_loopback() -> None:
    argv = local_head.command(ports(), LAUNCH, Path("/tmp/rp-x"), 2**30, warm=None)
    assert "--dashboard-host=127.0.0.2" in argv
    assert "--num-cpus=8" in argv
    assert not [a for a in argv if "token" in a]


def test_a_head_with_warm_processes_has_the_same_command_with_another_module() -> None:
    plain = local_head.command(ports(), LAUNCH, Path("/tmp/rp-x"), 2**30, warm=None)
    warm = local_head.command(ports(), LAUNCH, Path("/tmp/rp-x"), 2**30, warm=Path("/tmp/rp-x-w"))
    assert plain[1:3] == ["-m", "ray.scripts.scripts"]
    assert warm[1:4] == ["-m", plugins.WARM_HEAD, "/tmp/rp-x-w"]
    assert warm[4:] == plain[3:]


def test_the_folder_of_warm_processes_is_outside_rays_own_which_all_users_may_write() -> None:
    folder = local_head.warm_folder("a" * 10, UID)
    assert folder.parent == local_head.temp_dir("a" * 10, UID).parent
    assert folder.name.startswith("rp-aaaaaaaaaa-")  # by which `rayplane down` finds it


def test_the_environment_inherits_only_allowed_variables_and_limits_threads() -> None:
    inherited = {
        "PATH": "/usr/bin",
        "HOME": "/users/me",
        "RAY_ADDRESS": "another",
        "MLFLOW_TRACKING_URI": "another",
        "RAYPLANE_MLFLOW_ADMIN_PATH": "/secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "no_proxy": "example.org",
    }
    env = local_head.environment(
        ports(), LAUNCH, {"RAY_AUTH_TOKEN_PATH": Path("/users/me/token")}, slow_store=True, inherited=inherited, cores=2
    )
    assert not {"RAY_ADDRESS", "MLFLOW_TRACKING_URI", "RAYPLANE_MLFLOW_ADMIN_PATH", "AWS_SECRET_ACCESS_KEY"} & set(env)
    assert env["HOME"] == "/users/me"
    assert env["PATH"].endswith(":/usr/bin")
    assert env["RAYPLANE_TEAM"] == "alpha"
    assert (env["RAY_AUTH_MODE"], env["RAY_AUTH_TOKEN_PATH"]) == ("token", "/users/me/token")
    assert env["OMP_NUM_THREADS"] == "1"
    assert RAY_ENVIRONMENT.items() <= env.items()
    assert env["no_proxy"] == "example.org,localhost,127.0.0.1,127.0.0.2"
    assert env["RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"] == "1"


def test_a_heads_node_has_its_size_and_the_start_of_its_process() -> None:
    size = Size(cpu=2, memory=4 * 2**30, logical_cpu=8)
    argv = ["python", "start", "--head", "--num-cpus=8", "--memory=4294967296", "--num-gpus=0"]
    record = HeadRecord(name="uid", pid=7, session=7, started=1234, mark="home/ray-uid", argv=argv)
    known = record.model_copy(update={"size": size, "launched_at": 1_700_000_000.25})
    node = local_head.node(known)
    assert (node.id, node.kind, node.cpu, node.memory, node.gpu) == ("7-1234", "head", 2, 4 * 2**30, 0)
    assert node.started_at.timestamp() == 1_700_000_000.25
    interrupted = local_head.node(record)
    assert (interrupted.id, interrupted.cpu, interrupted.memory) == ("7-1234", 8, 4 * 2**30)
