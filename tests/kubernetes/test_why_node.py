"""`why` on a real node: messages of its kubelet and runtime about pods that can't run, and unmet demands of Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayplane.gateway.backends.base import ClusterRef
from rayplane.nouns.cluster import ClusterStatus
from rayplane.nouns.team import Size
from rayplane.nouns.why import Explanation
from rayplane.settings import read_secret
from tests.kubernetes import gateway
from tests.kubernetes.asked import Asked, Change, asked
from tests.kubernetes.bed.api import Object, wait_for
from tests.kubernetes.bed.level_b import LevelB

pytestmark = pytest.mark.timeout(1500)

MIB = 2**20
SIZES = {
    "tiny": Size(cpu=0.05, memory=192 * MIB),
    "real": Size(cpu=0.5, memory=2560 * MIB),
    "vast": Size(cpu=0.05, memory=2**44),
}
BARE = {"ray.io/overwrite-container-cmd": "true"}
"""Annotation: KubeRay leaves the container's command as it is."""


@pytest.fixture(scope="module")
def team(level_b: LevelB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    kubeconfig, home = gateway.install(level_b), tmp_path_factory.mktemp("home")
    with asked(level_b, kubeconfig, home, sizes=SIZES, image=level_b.image) as made:
        yield made


def head(manifest: Object) -> Object:
    """The head's Ray container."""
    container: Object = manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return container


def running(script: str, **more: Any) -> Change:
    """A head that runs a script in place of Ray."""

    def change(manifest: Object) -> None:
        manifest["metadata"].setdefault("annotations", {}).update(BARE)
        head(manifest).update(command=["python", "-u", "-c", script], **more)

    return change


def broken(**fields: Any) -> Change:
    """A head whose container is another in some fields."""
    return lambda manifest: head(manifest).update(fields)


def with_env_from_nowhere(manifest: Object) -> None:
    source = {"secretKeyRef": {"name": "nowhere", "key": "token"}}
    head(manifest)["env"].append({"name": "TOKEN", "valueFrom": source})


def unreadable_name(manifest: Object) -> None:
    head(manifest)["image"] = "Not:A:Name"


def stop(team: Asked, ref: ClusterRef) -> None:
    """Free the cluster's share of the node."""
    team.api.delete("ray.io/v1", "RayCluster", ref.name, team.namespace)


def seen(team: Asked, name: str, change: Change, *codes: str, **more: Any) -> Explanation:
    """The answer about a cluster with this fault, which is deleted afterwards."""
    ref = team.want(name, size=more.pop("size", "tiny"), **more.pop("spec", {}))
    team.make(ref, change, secrets=more.pop("secrets", True))
    try:
        return team.until(ref, *codes, **{"seconds": 180, **more})
    finally:
        stop(team, ref)


def test_an_image_that_the_node_does_not_have(team: Asked) -> None:
    change = broken(image="rayplane/none:1", imagePullPolicy="Never")
    answer = seen(team, "no-image", change, "image-not-found")
    assert "its image 'rayplane/none:1' is not there" in answer.sentence


def test_a_registry_that_does_not_answer(level_b: LevelB, team: Asked) -> None:
    image = f"{level_b.host_address}:1/rayplane/ray:1"
    answer = seen(team, "no-registry", broken(image=image), "registry-unreachable")
    assert f"the registry of its image '{image}' does not answer" in answer.sentence
    assert "connection refused" in answer.sentence


def test_an_image_whose_name_can_not_be_read(team: Asked) -> None:
    seen(team, "bad-name", unreadable_name, "image-name-invalid")


def test_a_missing_secret_of_the_environment(team: Asked) -> None:
    answer = seen(team, "no-secret", with_env_from_nowhere, "config-missing")
    assert "its Secret 'nowhere' is not there" in answer.sentence


def test_a_missing_secret_of_a_volume(team: Asked) -> None:
    answer = seen(team, "no-volume", lambda manifest: None, "config-missing", secrets=False)
    assert "its Secret 'no-volume-secrets' is not there" in answer.sentence


def test_a_program_that_is_not_in_the_image(team: Asked) -> None:
    def change(manifest: Object) -> None:
        manifest["metadata"].setdefault("annotations", {}).update(BARE)
        head(manifest)["command"] = ["/no/such/program"]

    answer = seen(team, "no-program", change, "container-start")
    assert "/no/such/program" in answer.sentence


def test_a_head_that_ends_has_its_exit_code_and_its_last_output(team: Asked) -> None:
    answer = seen(team, "ends", running("print('No port is free.'); raise SystemExit(3)"), "crash-loop")
    assert "ends with exit code 3" in answer.sentence
    assert "No port is free" in answer.sentence


def test_a_head_that_takes_too_much_memory(team: Asked) -> None:
    script = "import time; time.sleep(1); x = bytearray(900_000_000); print(len(x))"
    answer = seen(team, "greedy", running(script), "out-of-memory")
    assert "ran out of memory and was killed" in answer.sentence


def test_a_head_that_does_not_answer_its_probe(team: Asked) -> None:
    answer = seen(team, "deaf", running("import time; time.sleep(600)"), "probe-failing")
    assert "Readiness probe failed" in answer.sentence


def test_a_node_without_room(team: Asked) -> None:
    answer = seen(team, "vast", lambda manifest: None, "insufficient-memory", size="vast")
    assert "of 1 node 1 has too little memory free" in answer.sentence


def test_of_two_causes_at_once_the_heads_comes_first(team: Asked) -> None:
    def change(manifest: Object) -> None:
        worker = manifest["spec"]["workerGroupSpecs"][0]["template"]["spec"]
        worker["nodeSelector"] = {"zone": "moon"}
        with_env_from_nowhere(manifest)

    answer = seen(team, "both", change, "config-missing", "node-selector", spec={"workers": {"min": 1, "max": 1}})
    assert [cause.node for cause in answer.causes] == ["head", "worker"]


def test_a_running_ray_has_no_cause_until_its_work_asks_for_more_than_its_maximum(level_b: LevelB, team: Asked) -> None:
    ref = team.want("ray", size="real", workers={"min": 0, "max": 1})
    try:
        status = _ready(team, ref)
        team.until(ref, reconciled=True)
        assert status.endpoint is not None
        token = read_secret(Path(status.endpoint.token_path or ""))
        url = status.endpoint.dashboard_url
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as ray:
            version = ray.get("/api/version").raise_for_status().json()["ray_version"]
            (pod,) = gateway.pods_of(level_b.api, ref, "head")
            print(f"head {pod['metadata']['uid']} runs Ray {version} from {level_b.image_digest}")
            job = _submit(ray, "[f.options(num_cpus=64).remote()]")
            answer = team.until(ref, "autoscaler-infeasible", seconds=180)
            assert "64" in answer.sentence
            ray.post(f"/api/jobs/{job}/stop").raise_for_status()
            team.until(ref, seconds=120)
            _submit(ray, "[f.options(num_cpus=1).remote() for _ in range(6)]")
            answer = team.until(ref, "autoscaler-at-max", seconds=300)
            assert (
                "has all the workers that it may have, and work still waits: 1 of at most 1 workers" in answer.sentence
            )
    finally:
        stop(team, ref)
        wait_for("pods gone", lambda: not gateway.pods_of(level_b.api, ref, "head"), seconds=120)


def _submit(ray: httpx.Client, calls: str) -> str:
    """Submit a job whose tasks sleep; returns Ray's id of it."""
    script = f"import ray, time; ray.init(); f = ray.remote(lambda: time.sleep(600)); ray.get({calls})"
    answer = ray.post("/api/jobs/", json={"entrypoint": f"python -c {json.dumps(script)}"})
    return str(answer.raise_for_status().json()["submission_id"])


def _ready(team: Asked, ref: ClusterRef) -> ClusterStatus:
    deadline = time.monotonic() + 400
    while True:
        team.reconcile(ref)
        status: ClusterStatus = team.platform.store.get_by_uid(ref.uid).status
        if status.phase == "Ready":
            return status
        assert time.monotonic() < deadline, team.why("clusters", ref.name).model_dump_json(indent=1)
        time.sleep(0.5)
