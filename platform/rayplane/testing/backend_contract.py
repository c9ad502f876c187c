"""What every backend owes the reconciler, as one suite: subclass it in a test module and bring a ``case`` fixture."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from rayplane.errors import Unsupported
from rayplane.gateway.backends.base import Backend, Capability, ClusterRef, LaunchContext, Observation
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.team import Size

SIZE = Size(cpu=2, memory=2**30)


@dataclass
class BackendCase:
    """A backend under test and what the suite must know of it."""

    backend: Backend
    ref: ClusterRef
    spec: ClusterSpec = field(default_factory=ClusterSpec)
    launch: LaunchContext = field(default_factory=lambda: LaunchContext(size=SIZE, env={"RAYPLANE_TEAM": "alpha"}))
    crash: Callable[[ClusterRef], None] | None = None
    """Kills the head of a ready cluster."""
    leftovers: Callable[[ClusterRef], Sequence[object]] = lambda ref: ()
    """What is still there of a cluster: processes, folders, files."""
    patience: float = 5.0
    """Seconds that a cluster may take to come or go."""

    def observe(self) -> Observation:
        """What the backend sees."""
        return self.backend.observe(self.ref, self.spec)

    def ensure(self) -> None:
        """Ask for the cluster."""
        self.backend.ensure(self.ref, self.spec, self.launch)

    def until(self, phase: str) -> Observation:
        """Wait for a phase."""
        deadline = time.monotonic() + self.patience
        while (seen := self.observe()).phase != phase:
            assert time.monotonic() < deadline, f"not {phase} after {self.patience:g} s, but {seen}"
            time.sleep(0.1)
        return seen


class CreatingBackendContract:
    """For backends with CREATE. The tests share one cluster in the order of its life, since a start may take long."""

    def test_a_cluster_that_nobody_asked_for_is_absent(self, case: BackendCase) -> None:
        assert case.observe() == Observation(phase="absent")

    def test_deleting_a_missing_cluster_succeeds(self, case: BackendCase) -> None:
        case.backend.delete(case.ref)
        case.until("absent")

    def test_preflight_has_nothing_against_a_small_cluster(self, case: BackendCase) -> None:
        assert case.backend.preflight(case.ref, case.spec, case.launch.size) == []

    def test_a_cluster_that_is_asked_for_becomes_ready_with_an_endpoint(self, case: BackendCase) -> None:
        began = time.monotonic()
        case.ensure()
        assert time.monotonic() - began < 1, "ensure must return at once"
        seen = case.until("ready")
        assert seen.incarnation
        assert seen.endpoint is not None
        assert seen.endpoint.dashboard_url.startswith("http")
        assert (seen.endpoint.serve_url is not None) == (Capability.SERVE in case.backend.capabilities)
        assert (seen.endpoint.client_address is not None) == (Capability.CLIENT in case.backend.capabilities)
        assert seen.environment == case.backend.environment(case.spec)

    def test_asking_again_changes_nothing(self, case: BackendCase) -> None:
        before = case.until("ready")
        case.ensure()
        assert case.until("ready") == before

    def test_a_head_that_died_is_seen_and_started_anew_as_another_incarnation(self, case: BackendCase) -> None:
        assert case.crash is not None
        before = case.until("ready")
        case.crash(case.ref)
        seen = case.until("failed")
        assert seen.message
        case.ensure()
        after = case.until("ready")
        assert after.incarnation != before.incarnation

    def test_a_deleted_cluster_goes_and_leaves_nothing(self, case: BackendCase) -> None:
        case.until("ready")
        began = time.monotonic()
        case.backend.delete(case.ref)
        case.backend.delete(case.ref)
        assert time.monotonic() - began < 1, "delete must return soon"
        case.until("absent")
        assert list(case.leftovers(case.ref)) == []
        case.backend.delete(case.ref)
        case.until("absent")


class ReadingBackendContract:
    """For backends without CREATE: what they lack is refused, never ignored."""

    def test_making_and_deleting_are_unsupported(self, case: BackendCase) -> None:
        assert Capability.CREATE not in case.backend.capabilities
        with pytest.raises(Unsupported):
            case.ensure()
        with pytest.raises(Unsupported):
            case.backend.delete(case.ref)
