"""Contract of backends with JOB or SERVICE, as one suite: subclass it and bring a ``case`` fixture."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rayplane.gateway.backends.base import (
    Backend,
    JobBackend,
    JobObservation,
    JobRef,
    LaunchContext,
    ServiceBackend,
    ServiceObservation,
    ServiceRef,
    Submission,
    jobs_of,
    services_of,
)
from rayplane.nouns.cluster import Nodes, Workers
from rayplane.nouns.job import JobSpec
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import Size
from rayplane.testing.waiting import until

SIZE = Size(cpu=2, memory=2**30)
AT_ONCE = 30.0
"""Seconds that a call may take on a busy machine if it waits for no node."""


def application(version: str) -> dict[str, Any]:
    """An application as in Serve's configuration file."""
    return {
        "name": "delay",
        "route_prefix": "/delay",
        "import_path": "rayplane.runtime.serving.app:build",
        "args": {"model_uri": f"models:/delay/{version}", "service": "delay"},
        "runtime_env": {},
    }


@dataclass
class DedicatedCase:
    """A backend under test, with the inputs and hooks that the suite needs."""

    backend: Backend
    job: JobRef
    service: ServiceRef
    nodes: Nodes = field(default_factory=lambda: Nodes(workers=Workers(min=1, max=1)))
    submission: Submission = field(default_factory=lambda: Submission("python task.py", metadata={"who": "test"}))
    launch: LaunchContext = field(default_factory=lambda: LaunchContext(size=SIZE, env={"RAYPLANE_TEAM": "alpha"}))
    disturb: Callable[[ServiceRef], None] = lambda ref: None
    """Changes the application of a service behind the backend's back, so that it drifts."""
    take_away: Callable[[JobRef], None] = lambda ref: None
    """Deletes an attempt and its nodes behind the backend's back, as another user might."""
    leftovers: Callable[[JobRef | ServiceRef], Sequence[object]] = lambda ref: ()
    """Lists the remains of an attempt or a service."""
    patience: float = 5.0
    """Seconds that nodes may take to start or to go."""

    @property
    def jobs(self) -> JobBackend:
        """The backend's port to jobs; raises Unsupported if it has none."""
        return jobs_of(self.backend, self.job)

    @property
    def services(self) -> ServiceBackend:
        """The backend's port to services; raises Unsupported if it has none."""
        return services_of(self.backend, self.service)

    def ensure_job(self, ref: JobRef | None = None) -> None:
        """Ask the backend for the attempt."""
        self.jobs.ensure(ref or self.job, self.nodes, self.submission, self.launch)

    def ensure_service(self, version: str = "1") -> None:
        """Ask the backend to serve this version of the model."""
        self.services.ensure(self.service, self.nodes, application(version), self.launch)

    def job_until(self, wanted: Callable[[JobObservation], bool], ref: JobRef | None = None) -> JobObservation:
        """Wait until the attempt's observation is as wanted, and return it."""
        return until(lambda: self.jobs.observe(ref or self.job), wanted, "as wanted", patience=self.patience)

    def service_until(self, wanted: Callable[[ServiceObservation], bool]) -> ServiceObservation:
        """Wait until the service's observation is as wanted, and return it."""
        return until(lambda: self.services.observe(self.service), wanted, "as wanted", patience=self.patience)

    def until_nothing_is_left(self, ref: JobRef | ServiceRef) -> None:
        """Wait until an absent attempt or service has no remains."""
        until(lambda: list(self.leftovers(ref)), lambda left: not left, "gone", patience=self.patience)


class JobContract:
    """Tests for backends with JOB. They share one attempt and run in the order of its life."""

    def test_an_attempt_that_was_never_requested_is_absent(self, case: DedicatedCase) -> None:
        assert case.jobs.observe(case.job) == JobObservation("absent")

    def test_deleting_a_missing_attempt_succeeds(self, case: DedicatedCase) -> None:
        case.jobs.delete(case.job)
        assert case.jobs.observe(case.job).phase == "absent"

    def test_renewing_the_secrets_of_a_missing_attempt_succeeds_and_makes_nothing(self, case: DedicatedCase) -> None:
        case.jobs.renew(case.job, {"RAYPLANE_TOKEN_PATH": "secret"})
        assert case.jobs.observe(case.job).phase == "absent"

    def test_evidence_of_a_job_that_was_never_requested_is_of_no_node(self, case: DedicatedCase) -> None:
        assert [fact for fact in case.jobs.evidence(case.job) if fact.node is not None] == []

    def test_preflight_accepts_a_small_job(self, case: DedicatedCase) -> None:
        spec = JobSpec(entrypoint="python task.py", nodes=case.nodes)
        assert case.jobs.preflight(case.job, spec, case.launch.size) == []

    def test_an_attempt_gets_a_head_of_its_size_and_runs(self, case: DedicatedCase) -> None:
        began = time.monotonic()
        case.ensure_job()
        assert time.monotonic() - began < AT_ONCE, "ensure must return at once"
        observed = case.job_until(lambda observed: observed.phase == "running" and observed.endpoint is not None)
        assert observed.incarnation
        assert observed.endpoint is not None
        assert observed.endpoint.dashboard_url.startswith("http")
        assert observed.environment == case.backend.environment(case.nodes.as_cluster())
        heads = [node for node in observed.nodes if node.kind == "head"]
        assert [(node.cpu, node.memory, node.ended_at) for node in heads] == [(SIZE.cpu, SIZE.memory, None)]

    def test_asking_for_it_again_changes_nothing(self, case: DedicatedCase) -> None:
        before = case.job_until(lambda observed: observed.phase == "running" and observed.endpoint is not None)
        other = replace(case.submission, entrypoint="python another.py", timeout=9.0)
        case.jobs.ensure(case.job, case.nodes, other, case.launch)
        after = case.job_until(lambda observed: observed.phase == "running" and observed.endpoint is not None)
        assert (after.incarnation, after.endpoint) == (before.incarnation, before.endpoint)

    def test_the_next_attempt_of_the_same_job_is_absent_until_requested(self, case: DedicatedCase) -> None:
        second = replace(case.job, attempt=2)
        assert case.jobs.observe(second).phase == "absent"

    def test_an_attempt_that_was_deleted_behind_the_backends_back_is_absent(self, case: DedicatedCase) -> None:
        case.take_away(case.job)
        case.job_until(lambda observed: observed.phase in ("lost", "stopping", "absent"))
        case.job_until(lambda observed: observed.phase == "absent" and _none_running(observed))

    def test_a_deleted_attempt_goes_with_its_nodes_and_leaves_nothing(self, case: DedicatedCase) -> None:
        second = replace(case.job, attempt=2)
        case.ensure_job(second)
        case.job_until(lambda observed: bool(observed.nodes), second)
        began = time.monotonic()
        case.jobs.delete(second)
        case.jobs.delete(second)
        assert time.monotonic() - began < AT_ONCE, "delete must return soon"
        case.job_until(lambda observed: observed.phase == "absent" and _none_running(observed), second)
        case.until_nothing_is_left(second)
        case.jobs.delete(second)


class ServiceContract:
    """Tests for backends with SERVICE. They share one service and run in the order of its life."""

    def test_a_service_that_was_never_requested_is_absent(self, case: DedicatedCase) -> None:
        assert case.services.observe(case.service) == ServiceObservation("absent")

    def test_deleting_a_missing_service_succeeds(self, case: DedicatedCase) -> None:
        case.services.delete(case.service)
        assert case.services.observe(case.service).phase == "absent"

    def test_renewing_the_secrets_of_a_missing_service_succeeds_and_makes_nothing(self, case: DedicatedCase) -> None:
        case.services.renew(case.service, {"RAYPLANE_TOKEN_PATH": "secret"})
        assert case.services.observe(case.service).phase == "absent"

    def test_evidence_of_a_service_that_was_never_requested_is_of_no_node(self, case: DedicatedCase) -> None:
        assert [fact for fact in case.services.evidence(case.service) if fact.node is not None] == []

    def test_preflight_accepts_a_small_service(self, case: DedicatedCase) -> None:
        spec = ServiceSpec(model="models:/delay@champion", nodes=case.nodes)
        assert case.services.preflight(case.service, spec, case.launch.size) == []

    def test_a_service_gets_nodes_of_its_size(self, case: DedicatedCase) -> None:
        began = time.monotonic()
        case.ensure_service()
        assert time.monotonic() - began < AT_ONCE, "ensure must return at once"
        observed = case.service_until(lambda observed: bool(observed.nodes))
        assert observed.phase in ("starting", "ready")
        assert observed.drift == ""
        heads = [node for node in observed.nodes if node.kind == "head"]
        assert [(node.cpu, node.memory, node.ended_at) for node in heads] == [(SIZE.cpu, SIZE.memory, None)]

    def test_another_application_is_served_by_the_same_nodes(self, case: DedicatedCase) -> None:
        before = _ids(case.service_until(lambda observed: bool(observed.nodes)))
        case.ensure_service("2")
        case.ensure_service("2")
        assert before <= _ids(case.service_until(lambda observed: observed.drift == ""))

    def test_a_service_that_drifted_is_detected_and_repaired(self, case: DedicatedCase) -> None:
        case.disturb(case.service)
        assert case.service_until(lambda observed: observed.drift != "").drift
        case.ensure_service("2")
        case.service_until(lambda observed: observed.drift == "")

    def test_a_deleted_service_goes_with_its_nodes_and_leaves_nothing(self, case: DedicatedCase) -> None:
        began = time.monotonic()
        case.services.delete(case.service)
        case.services.delete(case.service)
        assert time.monotonic() - began < AT_ONCE, "delete must return soon"
        case.service_until(lambda observed: observed.phase == "absent" and _none_running(observed))
        case.until_nothing_is_left(case.service)
        case.services.delete(case.service)


def _none_running(observed: JobObservation | ServiceObservation) -> bool:
    return all(node.ended_at is not None for node in observed.nodes)


def _ids(observed: ServiceObservation) -> set[str]:
    return {node.id for node in observed.nodes if node.ended_at is None}
