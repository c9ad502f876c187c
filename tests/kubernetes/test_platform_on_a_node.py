"""The whole platform on a real node: clusters on demand, jobs, the reference team's pipeline, services; then nothing.

The tests are one story, in their order, on one `rayplane up` whose team has the backend `kubernetes`. Pods are printed
with their uids, Ray's versions and times, so that the log of a run is evidence.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from rayplane.client.sdk import Client
from rayplane.nouns.base import Document, Object
from rayplane.storage import layout
from tests.kubernetes.bed import api as kubernetes
from tests.kubernetes.bed.api import wait_for
from tests.kubernetes.bed.level_b import LevelB
from tests.support import noisy
from tests.support.local_platform import LocalPlatform, local_platform
from tests.support.stock_ray import StockRay

pytestmark = pytest.mark.timeout(1800)

CLONE = Path(__file__).parents[2]
TEAM, NAMESPACE = "flights", "rayplane-flights"
RAY = "ray.io/v1"
SIZES = {
    # The node has two cores. As on a laptop, Ray hands out more.
    "small": {"cpu": "600m", "memory": "8Gi", "logical_cpu": 8},
    "tiny": {"cpu": "200m", "memory": "3Gi", "logical_cpu": 2},
}

# Tasks that fill a tiny node each, none of which ends before all have begun, and how many nodes they ran on.
WORK = """
import sys, time
import ray
from ray.experimental import internal_kv as kv
ray.init()
print("ray", ray.__version__)

tasks, seconds = int(sys.argv[1]), float(sys.argv[2])

@ray.remote(num_cpus=2)
def hold(number):
    # Not by an actor: a task that waits for one gives its CPUs to another meanwhile.
    kv._internal_kv_put(f"begun-{number}", b"")
    while len(kv._internal_kv_list("begun-")) < tasks:
        time.sleep(0.5)
    time.sleep(seconds)
    return ray.get_runtime_context().get_node_id()

print("nodes:", len(set(ray.get([hold.remote(number) for number in range(tasks)]))))
"""


@pytest.fixture(scope="module")
def platform(level_b: LevelB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """A `rayplane up` of this host that acts on the bed as the gateway's own service account."""
    folder = tmp_path_factory.mktemp("platform")
    storage = folder / "storage"
    (storage / TEAM).mkdir(parents=True)
    with open_to_pods(storage, storage / TEAM), ingress(level_b) as url:
        settings = {**settings_of(level_b, storage), "RAYPLANE_KUBERNETES_SERVE_URL": url}
        with local_platform(folder / "home", settings) as up:
            yield up


@pytest.fixture(scope="module")
def api(platform: LocalPlatform) -> Iterator[Client]:
    """The SDK, and the team of jobs/flights.yaml, unchanged but for its backend and the sizes that fit the node."""
    with platform.client as client:
        client.apply_documents(documents("Team"))
        client.teams.wait("", TEAM, timeout=120)
        yield client


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a script."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "work.py").write_text(WORK)
    (folder / "bytes.py").write_text(noisy.PROGRAM)
    return folder


def test_a_team_has_a_restricted_namespace_with_its_quota(level_b: LevelB, api: Client) -> None:
    namespace = level_b.api.get("v1", "Namespace", NAMESPACE)
    assert namespace is not None
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    [quota] = level_b.api.list("v1", "ResourceQuota", NAMESPACE)
    say(f"namespace {NAMESPACE} {namespace['metadata']['uid']}, quota {quota['spec']['hard']}")


def test_a_cluster_starts_on_demand(level_b: LevelB, platform: LocalPlatform, api: Client) -> None:
    began = time.monotonic()
    platform.rayplane("cluster", "create", "auto", "--size", "tiny", "--workers", "0..2", "--team", TEAM)
    status = api.clusters.get(TEAM, "auto").status
    assert status["phase"] == "Ready"
    assert status["environment"]["ray"] == "2.60.0"
    say(f"cluster auto is ready after {seconds(began)}: {pods(level_b)}")


def test_stock_ray_submits_through_the_gateway(
    level_b: LevelB, platform: LocalPlatform, api: Client, stock_ray: StockRay, code: Path
) -> None:
    began = time.monotonic()
    done = stock_ray.run(
        platform, TEAM, "job", "submit", "--working-dir", str(code), "--submission-id", "by-stock-ray",
        "--", "python", "work.py", "0", "0", cluster="auto",
    )  # fmt: skip
    assert "ray 2.60.0" in done.stdout
    say(f"stock `ray job submit` took {seconds(began)} on {pods(level_b)}")
    [job] = [job for job in api.jobs.list(TEAM) if job.spec.get("submission_id") == "by-stock-ray"]
    assert job.status["phase"] == "Succeeded"
    assert "ray 2.60.0" in "".join(api.jobs.logs(TEAM, job.metadata.name, follow=False))


def test_a_log_of_any_bytes_is_kept_unchanged_although_the_gateway_is_killed_meanwhile(
    platform: LocalPlatform, api: Client, code: Path
) -> None:
    uid = submit(api, code, "bytes", "python bytes.py 0.2", cluster="auto").metadata.uid
    log_file = Path(urlsplit(platform.settings["RAYPLANE_STORAGE_ROOT"]).path) / layout.job_log(TEAM, uid)
    wait_for("its log is being kept", lambda: log_file.exists() and log_file.stat().st_size > 2**20, seconds=120)
    first = platform.process("gateway")["pid"]
    os.kill(first, signal.SIGKILL)
    wait_for("another gateway", lambda: platform.process("gateway")["pid"] not in (None, first), seconds=120)
    ended = api.jobs.wait(TEAM, "bytes", timeout=300)
    assert (ended.status["phase"], len(ended.status["attempts"])) == ("Succeeded", 1)
    noisy.assert_kept(log_file.read_bytes())
    say(f"{log_file.stat().st_size} bytes of a log are kept as they were printed, over two gateways")


def test_workers_start_with_work_and_are_removed_without(level_b: LevelB, api: Client, code: Path) -> None:
    began = time.monotonic()
    assert workers(level_b, "auto") == []
    job = submit(api, code, "grow", "python work.py 3 10", cluster="auto")
    wait_for("two workers", lambda: len(workers(level_b, "auto")) == 2, seconds=240)
    say(f"0 -> 2 workers after {seconds(began)}: {pods(level_b)}")
    ended = api.jobs.wait(TEAM, job.metadata.name, timeout=300)
    assert ended.status["phase"] == "Succeeded", log_of(api, "grow")
    assert "nodes: 3" in log_of(api, "grow")
    wait_for("no workers", lambda: workers(level_b, "auto") == [], seconds=240)
    say(f"2 -> 0 workers after {seconds(began)}")


def test_a_suspended_cluster_uses_no_resources_and_is_resumed(level_b: LevelB, api: Client, code: Path) -> None:
    before = pods(level_b)
    api.clusters.suspend(TEAM, "auto")
    wait_for("suspended", lambda: phase(api, "auto") == "Suspended" and not pods(level_b), seconds=120)
    assert all(lease.ended_at for lease in api.leases(TEAM) if lease.cluster == "auto")
    began = time.monotonic()
    api.clusters.resume(TEAM, "auto")
    wait_for("ready again", lambda: phase(api, "auto") == "Ready", seconds=180)
    say(f"suspended {before}; resumed after {seconds(began)} as {pods(level_b)}")
    # The log of what ran on the pods that are gone is kept.
    assert "nodes: 3" in log_of(api, "grow")


def test_an_idle_cluster_is_suspended_and_resumed_for_a_job(level_b: LevelB, api: Client, code: Path) -> None:
    spec = {"size": "tiny", "workers": {"min": 0, "max": 2}, "idle_timeout": "20s"}
    api.clusters.apply(TEAM, "auto", spec)
    began = time.monotonic()
    wait_for("suspended for idleness", lambda: phase(api, "auto") == "Suspended" and not pods(level_b), seconds=240)
    say(f"idle, so suspended after {seconds(began)}")
    assert api.clusters.get(TEAM, "auto").spec["suspended"] is False
    began = time.monotonic()
    job = submit(api, code, "wake", "python work.py 0 0", cluster="auto")
    ended = api.jobs.wait(TEAM, job.metadata.name, timeout=300)
    assert ended.status["phase"] == "Succeeded", log_of(api, "wake")
    say(f"a job woke it and was done after {seconds(began)}")


def test_a_job_has_nodes_of_its_own_for_as_long_as_it_runs(level_b: LevelB, api: Client, code: Path) -> None:
    api.clusters.delete(TEAM, "auto")
    api.clusters.wait_deleted(TEAM, "auto")
    assert pods(level_b) == []
    began = time.monotonic()
    job = submit(api, code, "alone", "python work.py 1 1", nodes={"size": "tiny"})
    wait_for("a RayJob", lambda: level_b.api.list(RAY, "RayJob", NAMESPACE), seconds=60)
    ended = api.jobs.wait(TEAM, job.metadata.name, timeout=400)
    assert ended.status["phase"] == "Succeeded", log_of(api, "alone")
    say(f"a RayJob was done after {seconds(began)}: {ended.status['attempts']}")
    assert "nodes: 1" in log_of(api, "alone")
    wait_for("its nodes freed", lambda: not rays(level_b) and not pods(level_b), seconds=120)


def test_the_flights_pipeline_ends_in_a_ray_service_that_answers(
    level_b: LevelB, platform: LocalPlatform, api: Client, tmp_path: Path
) -> None:
    (tmp_path / "flights.yaml").write_text(
        yaml.safe_dump_all([d.model_dump(mode="json", exclude_none=True, exclude_defaults=True) for d in documents()])
    )
    began = time.monotonic()
    done = platform.rayplane(
        "quickstart", "--folder", str(CLONE), "--documents", str(tmp_path / "flights.yaml"), "-o", "json", timeout=1500
    )
    report: dict[str, Any] = json.loads(done.stdout)
    say(f"the flights pipeline took {seconds(began)}: {report['stages']}")
    assert report["rows"]["ingested"] == 336_776
    assert report["rows"]["prepared"] + report["rows"]["quarantined"] == 336_776
    assert report["auc"] >= 0.75
    assert report["auc"] - report["baseline_auc"] >= 0.11
    assert report["prometheus"]["up"] == report["prometheus"]["total"] > 1
    [service] = level_b.api.list(RAY, "RayService", NAMESPACE)
    say(f"RayService {service['metadata']['uid']} at {report['service_url']} on {pods(level_b)}")
    assert len(report["predictions"]) == 3
    again = httpx.post(report["service_url"], json={"instances": [report["predictions"][0]["request"]]}, timeout=60)
    assert again.json() == report["predictions"][0]["answer"]


def test_a_deleted_team_leaves_nothing(level_b: LevelB, api: Client) -> None:
    for service in api.services.list(TEAM):
        api.services.delete(TEAM, service.metadata.name)
        api.services.wait_deleted(TEAM, service.metadata.name)
    for cluster in api.clusters.list(TEAM):
        api.clusters.delete(TEAM, cluster.metadata.name)
        api.clusters.wait_deleted(TEAM, cluster.metadata.name)
    api.teams.delete("", TEAM)
    api.teams.wait_deleted("", TEAM)
    assert level_b.api.get("v1", "Namespace", NAMESPACE) is None
    volumes = [volume["metadata"]["name"] for volume in level_b.api.list("v1", "PersistentVolume")]
    assert [name for name in volumes if name.startswith(NAMESPACE)] == []
    assert rays(level_b) == []
    assert api.leases(TEAM, open_only=True) == []


def settings_of(bed: LevelB, storage: Path) -> dict[str, str]:
    """Settings for a gateway on this host that uses the bed."""
    for manifest in yaml.safe_load_all((CLONE / "deploy" / "kubernetes" / "gateway-role.yaml").read_text()):
        bed.api.apply(manifest)
    volume = {"hostPath": {"path": f"{storage}/{{team}}", "type": "Directory"}}
    return {
        "RAYPLANE_HOST": bed.host_address,
        "RAYPLANE_STORAGE_ROOT": f"file://{storage}",
        "RAYPLANE_KUBERNETES_KUBECONFIG": str(bed.kubeconfig_for("rayplane-gateway", "rayplane")),
        "RAYPLANE_KUBERNETES_IMAGE": bed.image,
        "RAYPLANE_KUBERNETES_STORAGE_VOLUME": json.dumps(volume),
        "RAYPLANE_KUBERNETES_AUTOSCALER_CPU": "0.1",
        "RAYPLANE_KUBERNETES_WORKER_IDLE_SECONDS": "5",
        "RAYPLANE_KUBERNETES_TERMINATION_SECONDS": "1",
        # Two cores for all of it: a request may take long, but less than the SDK waits for the gateway.
        "RAYPLANE_KUBERNETES_REQUEST_TIMEOUT": "25",
    }


@contextmanager
def ingress(bed: LevelB) -> Iterator[str]:
    """A proxy for an application's requests to services; its URL has placeholders for namespace and service."""

    class Pass(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            namespace, service, rest = self.path.lstrip("/").split("/", 2)
            cluster_service = bed.api.get("v1", "Service", service, namespace)
            assert cluster_service is not None, self.path
            body = self.rfile.read(int(self.headers["Content-Length"]))
            to = f"http://{cluster_service['spec']['clusterIP']}:8000/{rest}"
            try:
                answer = httpx.post(
                    to, content=body, headers={"Content-Type": self.headers["Content-Type"]}, timeout=60
                )
            except httpx.TransportError as error:
                self.send_error(502, str(error))
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output quiet."""

    with ThreadingHTTPServer((bed.host_address, 0), Pass) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://{bed.host_address}:{server.server_port}/{{namespace}}/{{service}}"
        server.shutdown()
        thread.join()


@contextmanager
def open_to_pods(*folders: Path) -> Iterator[None]:
    """The gateway is root here and pods are user 1000: each must be able to write beside the other."""
    for folder in folders:
        folder.chmod(0o777)
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def documents(*kinds: str) -> list[Document]:
    """The documents of jobs/flights.yaml: another backend, sizes that fit it, a service on nodes of its own."""
    changed = []
    for value in yaml.safe_load_all((CLONE / "jobs" / "flights.yaml").read_text()):
        document = Document.model_validate(value)
        if document.kind == "Team":
            document.spec |= {"backend": "kubernetes", "sizes": SIZES}
        elif document.kind == "Service":
            document.spec = {**document.spec, "nodes": {"size": "tiny"}}
            del document.spec["cluster"]
        if not kinds or document.kind in kinds:
            changed.append(document)
    return changed


def submit(api: Client, code: Path, name: str, entrypoint: str, **where: Any) -> Object:
    """A job with the code of a folder."""
    package = api.packages.upload(TEAM, code)
    return api.jobs.apply(TEAM, name, {"entrypoint": entrypoint, "package": package, "tracked": False, **where})


def log_of(api: Client, name: str) -> str:
    """The log of a job, as the platform keeps it."""
    return "".join(api.jobs.logs(TEAM, name, follow=False))


def phase(api: Client, name: str) -> str:
    return str(api.clusters.get(TEAM, name).status["phase"])


def workers(bed: LevelB, cluster: str) -> list[kubernetes.Object]:
    return bed.api.list("v1", "Pod", NAMESPACE, labels=f"ray.io/node-type=worker,ray.io/cluster={cluster}")


def pods(bed: LevelB) -> list[str]:
    """The team's pods by name and uid."""
    return [f"{p['metadata']['name']} {p['metadata']['uid']}" for p in bed.api.list("v1", "Pod", NAMESPACE)]


def rays(bed: LevelB) -> list[str]:
    """Kind and name of all of KubeRay's objects in the namespace."""
    kinds = ("RayCluster", "RayJob", "RayService")
    return [f"{kind} {obj['metadata']['name']}" for kind in kinds for obj in bed.api.list(RAY, kind, NAMESPACE)]


def seconds(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def say(line: str) -> None:
    print(f"node: {line}", flush=True)
