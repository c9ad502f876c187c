"""Jobs and services with nodes of their own on a real node: real pods of Ray, seen and taken down by the reconcilers.

What a service follows, an alias of MLflow's registry, is set by the test; all else is real.
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rayplane.gateway.admission import tokens
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.backends.base import ServiceRef
from rayplane.gateway.backends.kubernetes import rayservice
from rayplane.gateway.reconcile.job import JobReconciler
from rayplane.gateway.reconcile.leader import Leader
from rayplane.gateway.reconcile.loop import Loop
from rayplane.gateway.reconcile.rays import RayClients
from rayplane.gateway.reconcile.service import ServiceReconciler
from rayplane.gateway.reconcile.team import TeamReconciler
from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import job as jobs
from rayplane.gateway.usecases import objects, why
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.why import Cause
from rayplane.settings import GatewaySettings
from rayplane.storage import layout
from rayplane.storage.root import open_root
from tests.kubernetes import gateway
from tests.kubernetes.bed.api import wait_for
from tests.kubernetes.bed.level_b import LevelB

pytestmark = pytest.mark.timeout(900)

TEAM, NAMESPACE, RAY = "solo", "rayplane-solo", gateway.RAY
# The node has two cores, and Ray's head wants more than a gigabyte.
SIZE = {"cpu": "800m", "memory": "3Gi"}
APP = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Says:
    def __init__(self, model):
        self.model = model

    async def __call__(self, request):
        return {"model": self.model, "asked": (await request.json())["x"]}

def build(args):
    return Says.bind(args["model_uri"])
"""


class Registry:
    """MLflow's registry, as far as a service follows it."""

    def __init__(self) -> None:
        self.champion = "1"

    def alias_version(self, team: str, model: str, alias: str) -> str:
        return self.champion

    def model_version(self, team: str, model: str, version: str) -> dict[str, Any]:
        return {"name": model, "version": version, "run_id": ""}


class Gateway:
    """The gateway's reconcilers on a backend of the bed, and what a test does with them."""

    def __init__(self, platform: Platform, registry: Registry) -> None:
        self.platform = platform
        self.registry = registry

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> AnyObject:
        team = "" if kind == "Team" else TEAM
        return objects.apply(kind, team, name, spec, labels={}, principal=SYSTEM, platform=self.platform)[0]

    def phase(self, kind: str, name: str, *phases: str, seconds: float = 300) -> AnyObject:
        """Wait for one of these phases."""

        def look() -> AnyObject | None:
            causes = self.platform.store.get(kind, "" if kind == "Team" else TEAM, name)
            return causes if causes.status.phase in phases else None

        try:
            return wait_for(f"{kind} {name} {phases}", look, seconds=seconds)
        except Exception as exc:
            exc.add_note(str(self.platform.store.get(kind, "" if kind == "Team" else TEAM, name).status))
            raise


@pytest.fixture(scope="module")
def running(level_b: LevelB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Reconcilers that act as the gateway's service account, on a storage root that pods see at the same path."""
    home, root = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("root")
    for folder in (root, *root.parents[:3]):  # pytest keeps its folders to itself
        folder.chmod(folder.stat().st_mode | 0o055)
    settings = GatewaySettings(home=home, storage_root=f"file://{root}", host=level_b.host_address)
    store = Store(settings.store_url)
    store.migrate()
    rays, registry = RayClients(), Registry()
    more = {
        "image": level_b.image,
        "image_pull_policy": "Never",
        "storage_volume": {"hostPath": {"path": str(root), "type": "Directory"}},
    }
    with gateway.backend_on(gateway.install(level_b), home, root=f"file://{root}", **more) as backend:
        platform = Platform(
            store=store,
            storage=open_root(settings.root_uri),
            settings=settings,
            readers=lambda name: backend,
            wake=lambda: loop.wake(),
            signer=tokens.load(settings.home_paths),
        )
        known = {"wake": lambda uid: loop.wake(uid)}
        loop: Loop = Loop(
            platform,
            [
                TeamReconciler(platform, None, lambda name: backend),
                JobReconciler(platform, lambda name: backend, rays, None, **known),  # type: ignore[arg-type]
                ServiceReconciler(platform, lambda name: backend, rays, registry, **known),  # type: ignore[arg-type]
            ],
            Leader(store, "test"),
        )
        loop.start()
        made = Gateway(platform, registry)
        made.apply("Team", TEAM, {"backend": "kubernetes", "sizes": {"tiny": SIZE}})
        made.phase("Team", TEAM, "Ready", seconds=60)
        yield made
        for kind in ("Service", "Job"):
            for left in store.each(kind, TEAM):
                objects.delete(kind, TEAM, left.metadata.name, principal=SYSTEM, platform=platform)
        wait_for("nothing of the team", lambda: not pods(level_b) and not unfinished(store), seconds=120)
        objects.delete("Team", "", TEAM, principal=SYSTEM, platform=platform)
        volume = f"{NAMESPACE}-storage"
        wait_for("its volume gone", lambda: level_b.api.get("v1", "PersistentVolume", volume) is None, seconds=120)
        assert level_b.api.get("v1", "Namespace", NAMESPACE) is None
        loop.stop()
        rays.close()
    store.close()


def test_a_job_runs_on_its_own_nodes_and_leaves_its_log_and_nothing_else(level_b: LevelB, running: Gateway) -> None:
    began = time.monotonic()
    code = "import ray; f = ray.remote(lambda: 41 + 1); print('answer', ray.get(f.remote()), ray.__version__)"
    spec = {"entrypoint": f'python -c "{code}"', "nodes": {"size": "tiny"}, "tracked": False, "timeout": "10m"}
    job = running.apply("Job", "answer", spec)
    running.phase("Job", "answer", "Running", *TERMINAL)
    [head] = pods(level_b)
    print(f"job {job.metadata.uid}: head {head['metadata']['uid']} runs it after {time.monotonic() - began:.1f} s")
    ended = running.phase("Job", "answer", *TERMINAL)
    print(f"job {job.metadata.uid}: {ended.status.phase} after {time.monotonic() - began:.1f} s, all told")
    data, _, complete = jobs.logs(TEAM, "answer", 0, principal=SYSTEM, platform=running.platform)
    assert (ended.status.phase, complete) == ("Succeeded", True), ended.status
    assert "answer 42 2.60.0" in data.decode()
    for kind in ("RayJob", "RayCluster", "Pod", "Secret"):
        assert level_b.api.list(RAY if kind.startswith("Ray") else "v1", kind, NAMESPACE) == [], kind
    [lease] = running.platform.store.leases(TEAM)
    assert (lease.cluster, lease.cpu, lease.ended_at is not None) == ("job/answer", 0.8, True)


def test_a_job_that_is_stopped_frees_its_nodes(level_b: LevelB, running: Gateway) -> None:
    spec = {"entrypoint": "sleep 600", "nodes": {"size": "tiny"}, "tracked": False}
    running.apply("Job", "sleeper", spec)
    running.phase("Job", "sleeper", "Running")
    began = time.monotonic()
    jobs.stop(TEAM, "sleeper", principal=SYSTEM, platform=running.platform)
    ended = running.phase("Job", "sleeper", *TERMINAL)
    print(f"stopped, with its nodes gone, after {time.monotonic() - began:.1f} s")
    assert ended.status.phase == "Stopped"
    assert pods(level_b) == []


def test_why_explains_a_demand_that_a_jobs_own_nodes_can_not_meet(level_b: LevelB, running: Gateway) -> None:
    code = "import ray; ray.get(ray.remote(lambda: 0).options(num_cpus=64).remote())"
    nodes = {"size": "tiny", "workers": {"min": 0, "max": 1}}
    running.apply("Job", "vast", {"entrypoint": f'python -c "{code}"', "nodes": nodes, "tracked": False})
    running.phase("Job", "vast", "Running")

    def told() -> Cause | None:
        causes = why.explain("Job", TEAM, "vast", principal=SYSTEM, platform=running.platform).causes
        return next((cause for cause in causes if cause.code == "autoscaler-infeasible"), None)

    cause = wait_for("why says that no node is that large", told, seconds=120)
    print(f"why: {cause.sentence}")
    assert "64" in cause.sentence
    jobs.stop(TEAM, "vast", principal=SYSTEM, platform=running.platform)
    running.phase("Job", "vast", *TERMINAL)
    assert pods(level_b) == []


def test_a_head_that_dies_under_a_job_is_a_lost_attempt_and_another_runs(level_b: LevelB, running: Gateway) -> None:
    code = (
        "import os, time; id = os.environ['RAYPLANE_SUBMISSION_ID']; time.sleep(0 if id[-1] == '2' else 600); print(id)"
    )
    spec = {"entrypoint": f'python -c "{code}"', "nodes": {"size": "tiny"}, "tracked": False}
    running.apply("Job", "unlucky", spec)
    running.phase("Job", "unlucky", "Running")
    [head] = pods(level_b)
    level_b.api.delete("v1", "Pod", head["metadata"]["name"], NAMESPACE, grace=0)
    ended = running.phase("Job", "unlucky", *TERMINAL)
    attempts = ended.status.attempts
    assert (ended.status.phase, [a.status for a in attempts]) == ("Succeeded", ["Lost", "Succeeded"])
    print(f"lost: {attempts[0].message}")
    assert (
        attempts[1].submission_id
        in jobs.logs(TEAM, "unlucky", 0, principal=SYSTEM, platform=running.platform)[0].decode()
    )


def test_a_service_answers_over_http_and_rolls_to_another_version_on_the_same_nodes(
    level_b: LevelB, running: Gateway
) -> None:
    began = time.monotonic()
    spec = {
        "model": "models:/delay@champion",
        "nodes": {"size": "tiny"},
        "app": "says:build",
        "package": package(running.platform),
    }
    service = running.apply("Service", "delay", spec)
    ready = running.phase("Service", "delay", "Ready")
    print(f"service {service.metadata.uid} is ready after {time.monotonic() - began:.1f} s at {ready.status.url}")
    url = reachable(level_b, running.platform.store.get("Service", TEAM, "delay"))
    assert first_answer(url) == {"model": "models:/delay/1", "asked": 1}
    [head] = pods(level_b)

    running.registry.champion = "2"
    began = time.monotonic()
    answers: list[dict[str, Any]] = []
    while not answers or answers[-1]["model"] != "models:/delay/2":
        assert time.monotonic() - began < 120, answers[-5:]
        answers.append(ask(url, 2))
        time.sleep(0.2)
    print(
        f"version 2 answers {time.monotonic() - began:.1f} s after the alias moved, {len(answers)} answers on the way"
    )
    rolled = running.phase("Service", "delay", "Ready")
    assert rolled.status.revision.number == 2
    assert rolled.status.url == ready.status.url
    assert [pod["metadata"]["uid"] for pod in pods(level_b)] == [head["metadata"]["uid"]]

    objects.delete("Service", TEAM, "delay", principal=SYSTEM, platform=running.platform)
    wait_for("the service gone", lambda: running.platform.store.count("Service", TEAM) == 0, seconds=120)
    assert pods(level_b) == []
    assert level_b.api.list(RAY, "RayService", NAMESPACE) == []


def unfinished(store: Store) -> list[str]:
    """Names of the team's services, and of its jobs that have not ended."""
    services = [service.metadata.name for service in store.each("Service", TEAM)]
    return services + [j.metadata.name for j in store.each("Job", TEAM) if j.status.phase not in TERMINAL]


def pods(level_b: LevelB) -> list[dict[str, Any]]:
    """The team's pods."""
    return level_b.api.list("v1", "Pod", NAMESPACE)


def package(platform: Platform) -> str:
    """The code of the application, as a client would have uploaded it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("says.py", APP)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    platform.storage.write(layout.package(TEAM, sha256), buffer.getvalue())
    return f"sha256:{sha256}"


def reachable(level_b: LevelB, service: AnyObject) -> str:
    """The service's URL by its Service's address: the host has no names of the bed."""
    name = rayservice.serve_service(ServiceRef(TEAM, "delay", service.metadata.uid))
    assert service.status.url == f"http://{name}.{NAMESPACE}.svc:8000/delay"
    causes = level_b.api.get("v1", "Service", name, NAMESPACE)
    assert causes is not None
    return f"http://{causes['spec']['clusterIP']}:8000/delay"


def first_answer(url: str) -> dict[str, Any]:
    """A prediction, as soon as the node has its rules for the Service, which it gets after KubeRay is ready."""

    def look() -> dict[str, Any] | None:
        try:
            return ask(url, 1)
        except httpx.TransportError:
            return None

    return wait_for("the node leads its address to a pod", look, seconds=60)


def ask(url: str, x: int) -> dict[str, Any]:
    """A prediction."""
    answer: dict[str, Any] = httpx.post(url, json={"x": x}, timeout=120, trust_env=False).raise_for_status().json()
    return answer
