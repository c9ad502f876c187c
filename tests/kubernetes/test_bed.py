"""The bed itself: it starts, behaves like a cluster, survives failures of its components, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayplane.errors import Unavailable
from tests.kubernetes.bed import level_a as a
from tests.kubernetes.bed.api import Api, ApiError, Object, condition, wait_for
from tests.kubernetes.bed.level_a import LevelA
from tests.kubernetes.support import head_and_workers, namespace

RAY = "ray.io/v1"


def test_every_component_of_level_a_is_healthy_and_kuberay_is_installed(level_a: LevelA) -> None:
    version = level_a.api.request("GET", "/version")
    assert version["gitVersion"] == "v1.36.2"
    kinds = {resource["kind"] for resource in level_a.api.request("GET", f"/apis/{RAY}")["resources"]}
    assert {"RayCluster", "RayJob", "RayService"} <= kinds


def test_the_operator_makes_a_ray_cluster_ready_on_fake_nodes(level_a: LevelA) -> None:
    with namespace(level_a.api) as name:
        level_a.api.apply(head_and_workers("one", name, image="example/ray:2.60", workers=3))
        began = time.monotonic()
        cluster = wait_for("RayCluster provisioned", lambda: provisioned(level_a.api, "one", name), seconds=120)
        print(f"RayCluster {cluster['metadata']['uid']} is provisioned after {time.monotonic() - began:.1f} s")
        pods = level_a.api.list("v1", "Pod", name)
        assert sorted(pod["metadata"]["labels"]["ray.io/node-type"] for pod in pods) == ["head"] + ["worker"] * 3
        assert all(pod["status"]["phase"] == "Running" and pod["status"]["podIP"] for pod in pods)
        level_a.api.delete(RAY, "RayCluster", "one", name)
        wait_for("its pods gone", lambda: not level_a.api.list("v1", "Pod", name), seconds=120)


def test_a_held_pod_keeps_the_status_that_a_test_sets(level_a: LevelA) -> None:
    with namespace(level_a.api) as name:
        with level_a.pods_held():
            level_a.api.create(pod("held", name))
            wait_for(
                "pod scheduled",
                lambda: condition(level_a.api.get("v1", "Pod", "held", name), "PodScheduled"),
                seconds=120,
            )
            waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
            container = {
                "name": "main",
                "image": "x",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": waiting,
            }
            level_a.set_pod_status("held", name, {"phase": "Pending", "containerStatuses": [container]})
        level_a.api.create(pod("free", name))
        wait_for("the other runs", lambda: phase(level_a.api, "free", name) == "Running", seconds=120)
        held_pod = level_a.api.get("v1", "Pod", "held", name)
        assert held_pod is not None
        assert held_pod["status"]["phase"] == "Pending"
        assert held_pod["status"]["containerStatuses"][0]["state"] == waiting


def test_pod_security_quota_and_roles_are_enforced(level_a: LevelA) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    with namespace(level_a.api, labels=labels) as name:
        with pytest.raises(ApiError, match="violates PodSecurity") as refused:
            level_a.api.create(pod("privileged", name, securityContext={"privileged": True}))
        assert refused.value.status == 403
    with namespace(level_a.api) as name:
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": name}}
        level_a.api.create(quota | {"spec": {"hard": {"pods": "1"}}})
        wait_for(
            "quota counted",
            lambda: (level_a.api.get("v1", "ResourceQuota", "q", name) or {}).get("status"),
            seconds=120,
        )
        level_a.api.create(pod("first", name))
        with pytest.raises(ApiError, match="exceeded quota"):
            level_a.api.create(pod("second", name))
        wait_for("service account", lambda: level_a.api.get("v1", "ServiceAccount", "default", name), seconds=120)
        with Api(level_a.kubeconfig_for("default", name)) as stranger, pytest.raises(ApiError) as forbidden:
            stranger.list("v1", "Pod", name)
        assert forbidden.value.status == 403
        assert f"system:serviceaccount:{name}:default" in str(forbidden.value)


@pytest.mark.parametrize("component", ["etcd", "kube-apiserver", "kube-controller-manager", "ray-operator", "kwok"])
def test_the_bed_works_on_after_a_component_is_killed(level_a: LevelA, component: str) -> None:
    with namespace(level_a.api) as name:
        level_a.api.apply(head_and_workers("before", name, image="example/ray:2.60", workers=1))
        wait_for("the first is provisioned", lambda: provisioned(level_a.api, "before", name), seconds=120)
        level_a.stop(component, grace=0)
        assert not level_a.running(component)
        level_a.start(component)
        assert provisioned(level_a.api, "before", name)
        level_a.api.apply(head_and_workers("after", name, image="example/ray:2.60", workers=1))
        wait_for("the second is provisioned", lambda: provisioned(level_a.api, "after", name), seconds=120)


def test_an_expired_watch_is_answered_with_410(level_a: LevelA) -> None:
    old = level_a.api.request("GET", "/api/v1/namespaces")["metadata"]["resourceVersion"]
    level_a.expire_watches()
    answer = level_a.api.request(
        "GET", "/api/v1/namespaces", params={"watch": "true", "resourceVersion": old, "timeoutSeconds": "5"}
    )
    assert answer["type"] == "ERROR"
    assert answer["object"]["code"] == 410


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_command_brings_a_bed_up_and_a_signal_takes_all_of_it_down(number: signal.Signals) -> None:
    if "KUBECONFIG" in os.environ:
        pytest.skip("there is another's cluster")
    argv = [sys.executable, "-m", "tests.kubernetes.bed", "up"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        config = Path(command.stdout.readline().strip())
        with Api(config) as api:
            assert len(api.list("v1", "Node")) == 2
        folder = config.parent
        assert processes_of(folder)
        command.send_signal(number)
        said = command.communicate(timeout=60)[1]
    assert command.returncode == 0, said
    assert "nothing is left" in said
    assert not folder.exists()
    assert not processes_of(folder)


def test_a_bed_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets, temporary = tmp_path / "assets", tmp_path / "temporary"
    assets.mkdir()
    temporary.mkdir()
    (assets / "etcd").symlink_to("/bin/false")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(Unavailable, match="etcd ended while it started"), a.level_a():
        pass
    assert not processes_of(temporary)
    assert not list(temporary.iterdir())


def processes_of(folder: Path) -> list[str]:
    """The command lines that name a folder."""
    command_lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It ended meanwhile.
        if str(folder) in line:
            command_lines.append(line)
    return command_lines


def provisioned(api: Api, name: str, where: str) -> Object | None:
    cluster = api.get(RAY, "RayCluster", name, where)
    ready = condition(cluster, "RayClusterProvisioned") == "True" and condition(cluster, "HeadPodReady") == "True"
    return cluster if ready else None


def phase(api: Api, name: str, where: str) -> str | None:
    pod = api.get("v1", "Pod", name, where)
    return pod["status"].get("phase") if pod else None


def pod(name: str, where: str, **container: object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": where},
        "spec": {"containers": [{"name": "main", "image": "example/none:1", **container}]},
    }
