"""In-memory fake of nodes that belong to one job or service: a part of the fake backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from rayplane.errors import InvalidInput, Unavailable
from rayplane.gateway.backends.base import (
    Evidence,
    JobObservation,
    JobRef,
    LaunchContext,
    Node,
    ObjectRef,
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


class FakeJobs:
    """The fake backend's port to jobs, over what ``FakeDedicated`` holds."""

    def __init__(self, fake: FakeDedicated) -> None:
        self._fake = fake

    def preflight(self, ref: JobRef, spec: JobSpec, size: Size) -> list[str]:
        """Return the reasons that the test set."""
        return list(self._fake.reasons)

    def ensure(self, ref: JobRef, nodes: Nodes, submission: Submission, launch: LaunchContext) -> None:
        """Make the attempt's nodes, once."""
        fake = self._fake
        fake.record("ensure_job", ref)
        if fake.refused:
            raise InvalidInput(fake.refused)
        with fake.own_lock:
            if ref not in fake.attempts:
                phase: Literal["running", "starting"] = "running" if fake.at_once else "starting"
                fake.attempts[ref] = FakeAttempt(submission, launch, fake.next_number(), phase)
        fake.notify_uid(ref.uid)

    def renew(self, ref: JobRef, secrets: Mapping[str, str]) -> None:
        """Keep these secrets for the attempt, unless the test says that it can't be done."""
        self._fake.keep_secrets(ref, secrets, there=ref in self._fake.attempts)

    def observe(self, ref: JobRef) -> JobObservation:
        """Return the attempt's state; absent if it was never requested."""
        fake = self._fake
        with fake.own_lock:
            attempt = fake.attempts.get(ref)
            if attempt is None:
                return JobObservation("absent")
            nodes = (_head(ref.uid, attempt.number, attempt.launch),)
            if ref in fake.going:
                return JobObservation("stopping", nodes=nodes)
            up = attempt.phase not in ("starting", "lost")
            return JobObservation(
                attempt.phase,
                reason=attempt.reason,
                message=attempt.message,
                incarnation=None if attempt.phase == "starting" else f"{ref.uid}-{attempt.number}",
                endpoint=_endpoint(attempt.number) if up else None,
                environment=fake.environment(ClusterSpec()) if up else None,
                nodes=() if attempt.phase == "lost" else nodes,
            )

    def evidence(self, ref: ObjectRef) -> list[Evidence]:
        """Return the evidence that the test set."""
        return list(self._fake.facts.get(ref, ()))

    def delete(self, ref: JobRef) -> None:
        """Free the attempt's nodes; one already gone is success."""
        self._fake.record("delete_job", ref)
        self._fake.let_go(ref, there=ref in self._fake.attempts)


class FakeServices:
    """The fake backend's port to services, over what ``FakeDedicated`` holds."""

    def __init__(self, fake: FakeDedicated) -> None:
        self._fake = fake

    def preflight(self, ref: ServiceRef, spec: ServiceSpec, size: Size) -> list[str]:
        """Return the reasons that the test set."""
        return list(self._fake.reasons)

    def ensure(self, ref: ServiceRef, nodes: Nodes, application: Mapping[str, Any], launch: LaunchContext) -> None:
        """Make the service's nodes, or change what they serve; a spec of other nodes gets another head."""
        fake = self._fake
        fake.record("ensure_service", ref)
        if fake.refused:
            raise InvalidInput(fake.refused)
        with fake.own_lock:
            service = fake.serving.get(ref)
            if service is None or service.nodes != nodes:
                phase: Literal["ready", "starting"] = "ready" if fake.at_once else "starting"
                fake.serving[ref] = FakeService(application, nodes, launch, fake.next_number(), phase)
            else:
                service.application, service.launch, service.drift = application, launch, ""
        fake.notify_uid(ref.uid)

    def renew(self, ref: ServiceRef, secrets: Mapping[str, str]) -> None:
        """Keep these secrets for the service, unless the test says that it can't be done."""
        self._fake.keep_secrets(ref, secrets, there=ref in self._fake.serving)

    def observe(self, ref: ServiceRef) -> ServiceObservation:
        """Return the service's state; absent if it was never requested."""
        fake = self._fake
        with fake.own_lock:
            service = fake.serving.get(ref)
            if service is None:
                return ServiceObservation("absent")
            nodes = (_head(ref.uid, service.number, service.launch),)
            if ref in fake.going:
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
                environment=fake.environment(ClusterSpec()) if endpoint else None,
                nodes=nodes,
                drift=service.drift,
            )

    def evidence(self, ref: ObjectRef) -> list[Evidence]:
        """Return the evidence that the test set."""
        return list(self._fake.facts.get(ref, ()))

    def delete(self, ref: ServiceRef) -> None:
        """Free the service's nodes; one already gone is success."""
        self._fake.record("delete_service", ref)
        self._fake.let_go(ref, there=ref in self._fake.serving)


@dataclass
class FakeDedicated:
    """The attempts and services of the fake backend: their nodes are up at once, or when the test says so."""

    at_once: bool = True
    """True if a requested attempt or service is up at once."""
    reasons: list[str] = field(default_factory=list)
    """Answer of each ``preflight``."""
    refused: str = ""
    """Reason for which ``ensure`` refuses attempts and services; empty: it does not."""
    slow_to_go: bool = False
    """True if a deleted attempt or service goes only when the test says so."""
    attempts: dict[JobRef, FakeAttempt] = field(default_factory=dict)
    serving: dict[ServiceRef, FakeService] = field(default_factory=dict)
    going: set[JobRef | ServiceRef] = field(default_factory=set)
    """Attempts and services that were deleted and still hold their nodes."""
    asked: list[str] = field(default_factory=list)
    """Every call that changes attempts or services: its name and its subject."""
    facts: dict[ObjectRef, list[Evidence]] = field(default_factory=dict)
    """Answers of each ``evidence``."""
    unreachable: str = ""
    """Why ``renew`` can't be done; empty: it can."""
    renewed: dict[object, dict[str, str]] = field(default_factory=dict)
    """The secrets that were brought last to each cluster, attempt and service."""
    own_lock: threading.Lock = field(default_factory=threading.Lock)
    _subscribers: list[Callable[[str], None]] = field(default_factory=list)
    _made: int = 0

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """The environment of every cluster, attempt and service that it starts."""
        raise NotImplementedError

    def become_gone(self, ref: JobRef | ServiceRef) -> None:
        """For tests: a deleted attempt or service holds no node any more."""
        with self.own_lock:
            self.going.discard(ref)
            self.attempts.pop(ref, None)  # type: ignore[arg-type]
            self.serving.pop(ref, None)  # type: ignore[arg-type]
        self.notify_uid(ref.uid)

    def let_go(self, ref: JobRef | ServiceRef, *, there: bool) -> None:
        """Delete an attempt or a service: at once, or when the test says so."""
        if self.slow_to_go and there:
            with self.own_lock:
                self.going.add(ref)
            return
        self.become_gone(ref)

    def keep_secrets(self, ref: ObjectRef, secrets: Mapping[str, str], *, there: bool) -> None:
        """Keep these secrets for what is there; raises Unavailable if the test says that it can't be done."""
        if self.unreachable:
            raise Unavailable(self.unreachable, remedy="It is tried again.")
        if there:
            self.renewed[ref] = dict(secrets)

    def record(self, call: str, ref: JobRef | ServiceRef) -> None:
        """Note a changing call."""
        attempt = f"-{ref.attempt}" if isinstance(ref, JobRef) else ""
        self.asked.append(f"{call} {ref}{attempt}")

    def next_number(self) -> int:
        """The number of the next head. Call it with the lock held."""
        self._made += 1
        return self._made

    def notify_uid(self, uid: str) -> None:
        """Tell the subscribers that the object changed."""
        for changed in list(self._subscribers):
            changed(uid)


def _head(uid: str, number: int, launch: LaunchContext) -> Node:
    size = launch.size
    return Node(f"{uid}-{number}", "head", size.cpu, size.memory, size.gpu, BEGAN)


def _endpoint(number: int) -> Endpoint:
    return Endpoint(dashboard_url=f"http://127.0.0.1:{21000 + number}", metrics_targets=[f"127.0.0.1:{51000 + number}"])
