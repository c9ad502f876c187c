"""In-memory fake of nodes that belong to one job or service: a part of the fake backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from rayplane.errors import InvalidInput, Unsupported
from rayplane.gateway.backends.base import (
    Capability,
    JobObservation,
    JobRef,
    LaunchContext,
    Node,
    ServiceObservation,
    ServiceRef,
    Submission,
)
from rayplane.nouns.cluster import ClusterSpec, Endpoint, Nodes
from rayplane.nouns.environment import Environment
from rayplane.nouns.job import JobSpec
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import Size

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakeAttempt:
    """An attempt with nodes of its own."""

    submission: Submission
    launch: LaunchContext
    number: int
    phase: Literal["starting", "running", "succeeded", "failed", "stopped", "timed_out", "lost"]
    reason: str = ""
    message: str = ""


@dataclass
class FakeService:
    """A service with nodes of its own."""

    application: Mapping[str, Any]
    nodes: Nodes
    launch: LaunchContext
    number: int
    phase: Literal["starting", "ready", "failed"]
    reason: str = ""
    message: str = ""
    drift: str = ""


@dataclass
class FakeDedicated:
    """The fake backend's part for jobs and services: their nodes are up at once, or when the test says so."""

    name: str = "local"
    capabilities: frozenset[Capability] = frozenset(Capability)
    at_once: bool = True
    """True if a requested attempt or service is up at once."""
    reasons: list[str] = field(default_factory=list)
    """Answer of ``preflight_job`` and ``preflight_service``."""
    refused: str = ""
    """Reason for which ``ensure_job`` and ``ensure_service`` refuse; empty: they do not."""
    slow_to_go: bool = False
    """True if a deleted attempt or service goes only when the test says so."""
    attempts: dict[JobRef, FakeAttempt] = field(default_factory=dict)
    services: dict[ServiceRef, FakeService] = field(default_factory=dict)
    going: set[JobRef | ServiceRef] = field(default_factory=set)
    """Attempts and services that were deleted and still hold their nodes."""
    asked: list[str] = field(default_factory=list)
    """Every changing call: its name and its subject."""
    _subscribers: list[Callable[[str], None]] = field(default_factory=list)
    _made: int = 0
    _own_lock: threading.Lock = field(default_factory=threading.Lock)

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """The environment of every cluster, attempt and service that it starts."""
        raise NotImplementedError

    def preflight_job(self, ref: JobRef, spec: JobSpec, size: Size) -> list[str]:
        """Return the reasons that the test set."""
        self._require(Capability.JOB)
        return list(self.reasons)

    def preflight_service(self, ref: ServiceRef, spec: ServiceSpec, size: Size) -> list[str]:
        """Return the reasons that the test set."""
        self._require(Capability.SERVICE)
        return list(self.reasons)

    def ensure_job(self, ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext) -> None:
        """Make the attempt's nodes, once."""
        self._require(Capability.JOB)
        self._record("ensure_job", ref)
        if self.refused:
            raise InvalidInput(self.refused)
        with self._own_lock:
            if ref not in self.attempts:
                self._made += 1
                self.attempts[ref] = FakeAttempt(
                    submission, launch, self._made, "running" if self.at_once else "starting"
                )
        self._notify_uid(ref.uid)

    def observe_job(self, ref: JobRef) -> JobObservation:
        """Return the attempt's state; absent if it was never requested."""
        self._require(Capability.JOB)
        with self._own_lock:
            attempt = self.attempts.get(ref)
            if attempt is None:
                return JobObservation("absent")
            nodes = (_head(ref.uid, attempt.number, attempt.launch),)
            if ref in self.going:
                return JobObservation("stopping", nodes=nodes)
            up = attempt.phase not in ("starting", "lost")
            return JobObservation(
                attempt.phase,
                reason=attempt.reason,
                message=attempt.message,
                incarnation=None if attempt.phase == "starting" else f"{ref.uid}-{attempt.number}",
                endpoint=_endpoint(attempt.number) if up else None,
                environment=self.environment(ClusterSpec()) if up else None,
                nodes=() if attempt.phase == "lost" else nodes,
            )

    def delete_job(self, ref: JobRef) -> None:
        """Free the attempt's nodes; one already gone is success."""
        self._require(Capability.JOB)
        self._delete("delete_job", ref, self.attempts)

    def ensure_service(
        self, ref: ServiceRef, nodes: Nodes, application: Mapping[str, Any], launch: LaunchContext
    ) -> None:
        """Make the service's nodes, or change what they serve; a spec of other nodes gets another head."""
        self._require(Capability.SERVICE)
        self._record("ensure_service", ref)
        if self.refused:
            raise InvalidInput(self.refused)
        with self._own_lock:
            service = self.services.get(ref)
            if service is None or service.nodes != nodes:
                self._made += 1
                phase: Literal["ready", "starting"] = "ready" if self.at_once else "starting"
                self.services[ref] = FakeService(application, nodes, launch, self._made, phase)
            else:
                service.application, service.launch, service.drift = application, launch, ""
        self._notify_uid(ref.uid)

    def observe_service(self, ref: ServiceRef) -> ServiceObservation:
        """Return the service's state; absent if it was never requested."""
        self._require(Capability.SERVICE)
        with self._own_lock:
            service = self.services.get(ref)
            if service is None:
                return ServiceObservation("absent")
            nodes = (_head(ref.uid, service.number, service.launch),)
            if ref in self.going:
                return ServiceObservation("stopping", nodes=nodes)
            endpoint = None
            if service.phase == "ready":
                url = f"http://{ref.name}.{ref.team}.example:8000"
                endpoint = _endpoint(service.number).model_copy(update={"serve_url": url})
            return ServiceObservation(
                service.phase,
                reason=service.reason,
                message=service.message,
                endpoint=endpoint,
                environment=self.environment(ClusterSpec()) if endpoint else None,
                nodes=nodes,
                drift=service.drift,
            )

    def delete_service(self, ref: ServiceRef) -> None:
        """Free the service's nodes; one already gone is success."""
        self._require(Capability.SERVICE)
        self._delete("delete_service", ref, self.services)

    def become_gone(self, ref: JobRef | ServiceRef) -> None:
        """For tests: a deleted attempt or service holds no node any more."""
        with self._own_lock:
            self.going.discard(ref)
            self.attempts.pop(ref, None)  # type: ignore[arg-type]
            self.services.pop(ref, None)  # type: ignore[arg-type]
        self._notify_uid(ref.uid)

    def _delete(self, call: str, ref: JobRef | ServiceRef, existing: Mapping[Any, Any]) -> None:
        self._record(call, ref)
        if self.slow_to_go and ref in existing:
            with self._own_lock:
                self.going.add(ref)
            return
        self.become_gone(ref)

    def _record(self, call: str, ref: JobRef | ServiceRef) -> None:
        attempt = f"-{ref.attempt}" if isinstance(ref, JobRef) else ""
        self.asked.append(f"{call} {ref}{attempt}")

    def _require(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            raise Unsupported(f"Backend '{self.name}' lacks '{capability}'.", remedy="Use a backend that declares it.")

    def _notify_uid(self, uid: str) -> None:
        for changed in self._subscribers:
            changed(uid)


def _head(uid: str, number: int, launch: LaunchContext) -> Node:
    size = launch.size
    return Node(f"{uid}-{number}", "head", size.cpu, size.memory, size.gpu, BEGAN)


def _endpoint(number: int) -> Endpoint:
    return Endpoint(dashboard_url=f"http://127.0.0.1:{21000 + number}", metrics_targets=[f"127.0.0.1:{51000 + number}"])
