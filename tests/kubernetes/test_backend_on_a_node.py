"""A cluster on a real node: real Ray in real pods, as the Pod Security profile and the gateway's role leave them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.gateway.backends.base import LaunchContext, Observation
from rayplane.gateway.ray_rest import RayRest
from rayplane.nouns.cluster import ClusterSpec, Workers
from rayplane.nouns.team import Size
from rayplane.testing.backend_contract import BackendCase
from tests.kubernetes import gateway
from tests.kubernetes.bed.api import wait_for
from tests.kubernetes.bed.level_b import LevelB

pytestmark = pytest.mark.timeout(900)

# The node has two cores, and Ray's head wants more than a gigabyte.
SIZE = Size(cpu=0.7, memory=3 * 2**30)
LOOKS_AROUND = """
import os, pathlib, stat
token = pathlib.Path(os.environ["RAYPLANE_TOKEN_PATH"])
others = token.stat().st_mode & stat.S_IRWXO
print("token", token.read_text(), "others", others)
print("user", os.getuid(), "kubernetes", pathlib.Path("/var/run/secrets/kubernetes.io").exists())
folder = pathlib.Path(os.environ["TEST_FOLDER"])
(folder / "written").write_text("by the job")
print("teams", sorted(path.name for path in folder.parent.iterdir()))
"""
PRINTS_BYTES = r"""
import random, sys
sys.stdout.buffer.write(b"Z\xfcrich\r 50 %\r\n" + random.Random(7).randbytes(2**21))
"""
KILLS_RAY = """
import os, pathlib, signal
for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
    if path.read_text().strip() == "gcs_server":
        os.kill(int(path.parent.name), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def case(level_b: LevelB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendCase]:
    """A team on the node, with a storage root that its pods see at the same path; its cluster is not made yet."""
    home, root = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("root")
    for folder in (root, *root.parents[:3]):  # pytest keeps its folders to itself
        folder.chmod(folder.stat().st_mode | 0o055)
    more = {
        "image": level_b.image,
        "image_pull_policy": "Never",
        "storage_volume": {"hostPath": {"path": str(root), "type": "Directory"}},
        "autoscaler_cpu": "0.2",
    }
    with gateway.backend_on(gateway.install(level_b), home, root=root.as_uri(), **more) as backend:
        case = gateway.case_on(level_b, backend, home, patience=300)
        case.team_spec = gateway.TEAM_SPEC.model_copy(update={"sizes": {"small": SIZE}})
        case.until_nothing_is_missing(lambda: backend.teams.ensure(case.team, case.team_spec))
        mine = root / case.team.name
        os.chown(mine, 1000, 1000)  # a gateway of user 1000 would have made it so
        (root / "another-team").mkdir()
        case.spec = ClusterSpec(workers=Workers(min=0, max=1))
        case.launch = LaunchContext(
            size=SIZE, env={"TEST_FOLDER": str(mine)}, secrets={"RAYPLANE_TOKEN_PATH": "secret-text"}
        )
        yield case
        backend.clusters.delete(case.ref)
        case.until("absent")
        case.until_nothing_is_missing(lambda: backend.teams.delete(case.team))


def test_a_cluster_of_real_ray_becomes_ready_in_a_restricted_namespace(level_b: LevelB, case: BackendCase) -> None:
    began = time.monotonic()
    case.ensure()
    state = case.until("ready")
    ray = client(state)
    print(f"head pod {state.incarnation} is ready after {time.monotonic() - began:.1f} s: {ray.version()}")
    assert ray.version()["ray_version"] == "2.60.0"
    (head,) = gateway.pods_of(level_b.api, case.ref, "head")
    assert head["metadata"]["uid"] == state.incarnation
    assert {status["name"]: status["ready"] for status in head["status"]["containerStatuses"]} == {
        "ray-head": True,
        "autoscaler": True,
    }
    ray.close()


def test_a_job_reads_its_secrets_writes_the_storage_root_and_has_no_identity(case: BackendCase) -> None:
    said = run(case, "looks", LOOKS_AROUND)
    assert "token secret-text others 0" in said
    assert "user 1000 kubernetes False" in said
    assert f"teams ['{case.team.name}']" in said
    written = Path(case.launch.env["TEST_FOLDER"]) / "written"
    assert written.read_text() == "by the job"


def test_a_head_whose_ray_is_killed_is_reported_and_replaced(level_b: LevelB, case: BackendCase) -> None:
    before = case.until("ready")
    ray = client(before)
    ray.submit(f"python -c '{KILLS_RAY}'", "kills")
    ray.close()
    state = case.until("failed")
    print(f"{state.reason}: {state.message}")
    assert "ended" in state.message or "deleted" in state.message
    case.until_mended(before)


def test_the_output_of_a_job_is_kept_byte_for_byte(case: BackendCase) -> None:
    ray = client(case.until("ready"))
    ray.submit(f"python -c '{PRINTS_BYTES}'", "bytes")
    before, odd, after = ended(ray, "bytes").partition(b"Z\xfcrich\r 50 %\r\n")
    assert odd
    assert after == random.Random(7).randbytes(2**21)
    size = len(before + odd + after)
    assert b"".join(ray.log_from("bytes", size - 9)) == after[-9:]
    assert b"".join(ray.log_from("bytes", size)) == b""
    ray.close()


def test_a_deleted_cluster_leaves_nothing(level_b: LevelB, case: BackendCase) -> None:
    began = time.monotonic()
    case.backend.clusters.delete(case.ref)
    case.until("absent")
    print(f"deleted after {time.monotonic() - began:.1f} s")
    assert list(case.leftovers(case.ref)) == []
    case.until_nothing_is_missing(lambda: case.teams.delete(case.team))
    assert level_b.api.get("v1", "Namespace", f"rayplane-{case.team.name}") is None


def client(state: Observation) -> RayRest:
    """A ready cluster's Ray, by the token that the backend keeps."""
    assert state.endpoint is not None
    return RayRest(state.endpoint.dashboard_url, Path(str(state.endpoint.token_path)).read_text(), timeout=30)


def run(case: BackendCase, name: str, code: str) -> str:
    """Run Python code as a job; what it printed."""
    ray = client(case.until("ready"))
    ray.submit(f"python -c '{code}'", name)
    said = ended(ray, name).decode()
    ray.close()
    return said


def ended(ray: RayRest, name: str) -> bytes:
    """Wait for a job to succeed; what it printed."""

    def over() -> dict[str, Any] | None:
        job = ray.job(name)
        assert job is not None
        return job if job["status"] in ("SUCCEEDED", "FAILED", "STOPPED") else None

    job = wait_for(f"job {name} over", over, seconds=240, every=0.5)
    said = b"".join(ray.log_from(name, 0))
    assert job["status"] == "SUCCEEDED", f"{job.get('message')}\n{said.decode(errors='replace')}"
    return said
