"""Pipelines run as durable workflows: in order, once, cached where nothing changed, continued after a restart."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.gateway.admission import tokens
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.reconcile.pipeline import PipelineReconciler, _Engine
from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import objects, packages, pipeline
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import utcnow
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.job import TERMINAL, JobSpec, Output
from rayplane.nouns.pipeline import RunStatus, StepRun
from rayplane.settings import GatewaySettings
from rayplane.storage import layout
from rayplane.storage.root import open_root
from rayplane.testing.fakes import ENVIRONMENT, FakeBackend
from tests.support import stores

CODE = {"jobs/__init__.py": "", "jobs/a.py": "", "jobs/b.py": "", "jobs/c.py": "", "jobs/d.py": ""}
STEPS: dict[str, Any] = {
    "a": {"entrypoint": "python -m jobs.a", "outputs": ["rows"], "parameters": {"days": "${days}"}},
    "b": {"entrypoint": "python -m jobs.b", "inputs": ["rows"]},
    "c": {"entrypoint": "python -m jobs.c", "inputs": ["rows"]},
    "d": {"entrypoint": "python -m jobs.d", "needs": ["b", "c"]},
}


class Cluster:
    """Fake of Ray and the job reconciler: ends each job as ``behave`` says."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.behave: Callable[[str, JobSpec], list[Output] | str] = lambda step, spec: []
        self.held: set[str] = set()
        self.ran: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def publish(self, name: str, text: str) -> Output:
        """Publish a dataset version in the storage root as a job does."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        folder = layout.dataset_version("growth", name, digest[:16])
        self.platform.storage.write(f"{folder}/part-0.parquet", text.encode())
        version = DatasetVersion(
            team="growth", name=name, version=digest[:16], content_hash=digest, rows=1, columns=[],
            uri=self.platform.storage.uri(folder), bytes=len(text.encode()),
        )  # fmt: skip
        self.platform.storage.write(f"{folder}/{layout.VERSION_FILE}", version.model_dump_json().encode())
        return Output(kind="dataset", name=name, value=digest[:16])

    def _work(self) -> None:
        while not self._over.wait(0.02):
            for job in self.platform.store.list("Job", "growth", limit=500).items:
                self._end(job)

    def _end(self, job: AnyObject) -> None:
        status = job.status_copy()
        spec = job.spec
        step = str(spec.pipeline).rsplit("/", 1)[-1]
        if status.phase in TERMINAL:
            return
        if spec.stop_requested:
            status.phase = "Stopped"
        elif step in self.held:
            return
        else:
            self.ran.append(step)
            result = self.behave(step, spec)
            status.phase = "Failed" if isinstance(result, str) else "Succeeded"
            status.message = result if isinstance(result, str) else ""
            status.outputs = [] if isinstance(result, str) else result
        status.ended_at = utcnow()
        self.platform.store.set_status(job.metadata.uid, status)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    settings = GatewaySettings(home=tmp_path / "home")
    store = Store(stores.migrate(f"sqlite:///{tmp_path / 'gateway.db'}"))
    backend = FakeBackend()
    made = Platform(
        store=store,
        storage=open_root(f"file://{tmp_path / 'storage'}"),
        settings=settings,
        readers=lambda _: backend,
        wake=lambda: None,
        signer=tokens.load(settings.home_paths),
    )
    objects.apply("Team", None, "growth", {}, labels={}, principal=SYSTEM, platform=made)
    objects.apply("Cluster", "growth", "dev", {}, labels={}, principal=SYSTEM, platform=made)
    yield made
    store.close()


@pytest.fixture
def cluster(platform: Platform) -> Iterator[Cluster]:
    made = Cluster(platform)
    made.behave = lambda step, spec: (
        [made.publish("rows", "rows " + spec.parameters["days"])]
        if step == "a"
        else [Output(kind="value", name="sum", value=f"{step} of {sorted(spec.inputs.items())} {spec.values}")]
    )
    yield made
    made.close()


@pytest.fixture
def reconciler(platform: Platform, tmp_path: Path) -> Iterator[PipelineReconciler]:
    made = PipelineReconciler(platform, dbos_url=f"sqlite:///{tmp_path / 'workflows.db'}", mlflow=None, poll=0.02)
    made.start()
    yield made
    made.stop()


def package(platform: Platform, **changed: str) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in {**CODE, **changed}.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    packages.put("growth", digest, buffer, principal=SYSTEM, platform=platform)
    return f"sha256:{digest}"


def apply(platform: Platform, steps: dict[str, Any] | None = None, **changed: str) -> None:
    spec = {
        "cluster": "dev",
        "parameters": {"days": "30"},
        "package": package(platform, **changed),
        "steps": steps or STEPS,
    }
    objects.apply("Pipeline", "growth", "sums", spec, labels={}, principal=SYSTEM, platform=platform)


def start(platform: Platform, reconciler: PipelineReconciler, **parameters: str) -> AnyObject:
    run = pipeline.start_run("growth", "sums", parameters, False, principal=SYSTEM, platform=platform)
    reconciler.reconcile(run)
    return run


def finish(platform: Platform, run: AnyObject, seconds: float = 30) -> RunStatus:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = platform.store.get_by_uid(run.metadata.uid).status
        if status.phase in TERMINAL:
            return status
        time.sleep(0.02)
    raise AssertionError(f"the run did not end: {status}")


def phases(status: RunStatus) -> dict[str, str]:
    return {step.name: step.phase for step in status.steps}


def step(status: RunStatus, name: str) -> StepRun:
    return next(step for step in status.steps if step.name == name)


def test_steps_run_in_order_and_hand_on_their_outputs(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    apply(platform)
    status = finish(platform, start(platform, reconciler))
    assert (status.phase, status.message) == ("Succeeded", "")
    assert cluster.ran[0] == "a"
    assert cluster.ran[-1] == "d"
    version = step(status, "a").outputs[0].value
    assert step(status, "b").outputs[0].value == f"b of [('rows', '{version}')] {{}}"
    assert "'b.sum'" in str(step(status, "d").outputs[0].value)
    assert "'c.sum'" in str(step(status, "d").outputs[0].value)


def test_a_step_waits_while_the_quota_of_jobs_is_full(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayplane.gateway.reconcile.pipeline.ROOM", 0.05)
    team = platform.store.get("Team", "", "growth")
    platform.store.put("Team", "", "growth", {**team.spec_data, "quota": {"jobs": 1}}, owner="test")
    apply(platform)
    status = finish(platform, start(platform, reconciler))
    assert set(phases(status).values()) == {"Succeeded"}


def test_a_second_run_takes_all_from_the_cache(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    apply(platform)
    first = start(platform, reconciler)
    finish(platform, first)
    cluster.ran.clear()
    status = finish(platform, start(platform, reconciler))
    assert set(phases(status).values()) == {"Cached"}
    assert step(status, "d").cached_from == first.metadata.name
    assert cluster.ran == []


def test_changed_code_runs_its_step_and_what_depends_on_it(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    apply(platform)
    finish(platform, start(platform, reconciler))
    cluster.behave = lambda step, spec: [Output(kind="value", name="sum", value=f"new {step}")]
    apply(platform, **{"jobs/b.py": "changed = True\n"})
    status = finish(platform, start(platform, reconciler))
    assert phases(status) == {"a": "Cached", "b": "Succeeded", "c": "Cached", "d": "Succeeded"}


def test_another_environment_rebuilds_even_if_only_an_observation_reveals_it(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "environment", lambda self, spec: None)

    def look(ray: str) -> None:
        dev = platform.store.get("Cluster", "growth", "dev")
        environment = ENVIRONMENT.model_copy(update={"ray": ray}).model_dump(mode="json")
        platform.store.set_status(dev.metadata.uid, {**dev.status_data, "environment": environment})

    apply(platform)
    look("2.60.0")
    finish(platform, start(platform, reconciler))
    assert set(phases(finish(platform, start(platform, reconciler))).values()) == {"Cached"}
    look("2.61.0")
    assert set(phases(finish(platform, start(platform, reconciler))).values()) == {"Succeeded"}


def test_a_deleted_output_is_rebuilt_and_what_needs_it_stays_cached(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    apply(platform)
    version = step(finish(platform, start(platform, reconciler)), "a").outputs[0].value
    platform.storage.delete(f"{layout.dataset_version('growth', 'rows', version)}/part-0.parquet")
    status = finish(platform, start(platform, reconciler))
    assert phases(status) == {"a": "Succeeded", "b": "Cached", "c": "Cached", "d": "Cached"}


def test_a_dataset_whose_version_file_is_huge_is_rebuilt(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    apply(platform)
    version = step(finish(platform, start(platform, reconciler)), "a").outputs[0].value
    platform.storage.append(f"{layout.dataset_version('growth', 'rows', version)}/{layout.VERSION_FILE}", b" " * 2**20)
    status = finish(platform, start(platform, reconciler))
    assert phases(status)["a"] == "Succeeded"


def test_a_failed_step_fails_the_run_with_its_reason_and_skips_what_needs_it(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    apply(platform)
    behave = cluster.behave
    cluster.behave = lambda step, spec: "ran out of rows" if step == "b" else behave(step, spec)
    status = finish(platform, start(platform, reconciler))
    assert phases(status) == {"a": "Succeeded", "b": "Failed", "c": "Succeeded", "d": "Skipped"}
    assert status.phase == "Failed"
    assert "step 'b': ran out of rows" in status.message
    assert "rayplane job logs sums-1-b" in status.message
    assert step(status, "d").message == "Needs b."


def test_a_declared_output_that_was_not_published_fails_the_step(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    apply(platform)
    cluster.behave = lambda step, spec: []
    status = finish(platform, start(platform, reconciler))
    assert phases(status)["a"] == "Failed"
    assert "published no 'rows'" in step(status, "a").message


def test_a_stopped_run_stops_its_job_and_skips_the_rest(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    apply(platform)
    cluster.held = {"a"}
    run = start(platform, reconciler)
    pipeline.stop_run("growth", "sums", run.metadata.name, principal=SYSTEM, platform=platform)
    status = finish(platform, run)
    assert status.phase == "Stopped"
    assert phases(status) == {"a": "Stopped", "b": "Skipped", "c": "Skipped", "d": "Skipped"}


def test_a_run_that_is_stopped_while_its_sources_are_read_is_stopped_not_failed(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    apply(platform, {"a": {"entrypoint": "python -m jobs.a", "sources": {"rows": "file:///rows.parquet"}}})
    cluster.held = {"observe"}
    run = start(platform, reconciler)
    pipeline.stop_run("growth", "sums", run.metadata.name, principal=SYSTEM, platform=platform)
    status = finish(platform, run)
    assert (status.phase, status.message) == ("Stopped", "Stopped on request.")


def test_a_leader_that_lost_and_won_its_lead_runs_pipelines_again(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler
) -> None:
    reconciler.stop()
    reconciler.start()
    apply(platform)
    cluster.held = {"a"}
    run = start(platform, reconciler)
    time.sleep(0.5)
    cluster.held.clear()
    assert finish(platform, run).phase == "Succeeded"


def test_a_new_process_continues_the_runs_of_one_that_died(
    platform: Platform, cluster: Cluster, reconciler: PipelineReconciler, tmp_path: Path
) -> None:
    apply(platform)
    cluster.held = {"b", "c"}
    run = start(platform, reconciler)
    deadline = time.monotonic() + 20
    while phases(platform.store.get_by_uid(run.metadata.uid).status).get("b") != "Running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reconciler.stop()
    successor = PipelineReconciler(platform, dbos_url=f"sqlite:///{tmp_path / 'workflows.db'}", mlflow=None, poll=0.02)
    successor.start()
    try:
        successor.reconcile(platform.store.get_by_uid(run.metadata.uid))
        cluster.held.clear()
        status = finish(platform, run)
    finally:
        successor.stop()
    assert set(phases(status).values()) == {"Succeeded"}
    assert sorted(cluster.ran) == ["a", "b", "c", "d"]
    assert len(platform.store.list("Job", "growth").items) == 4


def test_an_error_of_a_leaving_leader_does_not_fail_the_step(
    platform: Platform,
    cluster: Cluster,
    reconciler: PipelineReconciler,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    apply(platform)
    entered, closed = threading.Event(), threading.Event()

    def interrupted(engine: Any, uid: str, name: str, plan: dict[str, Any]) -> None:
        entered.set()
        assert closed.wait(20)
        raise RuntimeError("the database was closed")

    with monkeypatch.context() as patched:
        patched.setattr(_Engine, "submit", interrupted)
        run = start(platform, reconciler)
        assert entered.wait(20)
        reconciler.stop()
    successor = PipelineReconciler(platform, dbos_url=f"sqlite:///{tmp_path / 'workflows.db'}", mlflow=None, poll=0.02)
    successor.start()
    closed.set()
    try:
        successor.reconcile(platform.store.get_by_uid(run.metadata.uid))
        status = finish(platform, run)
    finally:
        successor.stop()
    assert set(phases(status).values()) == {"Succeeded"}
