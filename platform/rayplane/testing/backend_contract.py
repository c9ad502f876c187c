"""Contract of every backend, as one suite: subclass it in a test module and bring a ``case`` fixture.

The suite exercises each capability that the backend declares; the backend must refuse each other one with
``Unsupported``, never ignore it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from rayplane.errors import Unsupported
from rayplane.gateway.backends.base import (
    Backend,
    Capability,
    ClusterBackend,
    ClusterRef,
    JobBackend,
    JobRef,
    LaunchContext,
    Node,
    Observation,
    ServiceBackend,
    ServiceRef,
    TeamBackend,
    TeamRef,
    jobs_of,
    services_of,
    teams_of,
)
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import ClusterSpec, Workers
from rayplane.nouns.team import Size, TeamSpec
from rayplane.testing.waiting import until

SIZE = Size(cpu=2, memory=2**30)
CLOCKS = timedelta(seconds=2)
"""Allowed difference between a node's clock and the test's: the API of Kubernetes has whole seconds."""


@dataclass
class BackendCase:
    """A backend under test, with the inputs and hooks that the suite needs."""

    backend: Backend
    ref: ClusterRef
    spec: ClusterSpec = field(default_factory=ClusterSpec)
    launch: LaunchContext = field(default_factory=lambda: LaunchContext(size=SIZE, env={"RAYPLANE_TEAM": "alpha"}))
    successor: Callable[[], Backend] | None = None
    """Makes the backend of the next gateway on the same home, as after a restart."""
    crash: Callable[[ClusterRef], None] | None = None
    """Kills the head of a ready cluster."""
    heals: bool = False
    """True if an operator replaces a head that died, so that the phase ``failed`` may never be observed."""
    scale: Callable[[ClusterRef, int], None] | None = None
    """Brings a ready cluster to so many workers, as far as the test must help. Needed with WORKERS."""
    disturb: Callable[[ClusterRef], None] | None = None
    """Changes a ready cluster behind the backend's back, so that it drifts."""
    leftovers: Callable[[ClusterRef], Sequence[object]] = lambda ref: ()
    """Lists the remains of a cluster: processes, folders, files, objects."""
    team: TeamRef = field(default_factory=lambda: TeamRef("alpha", "1123456789abcdef0123456789abcdef"))
    team_spec: TeamSpec = field(default_factory=TeamSpec)
    disturb_team: Callable[[TeamRef], None] | None = None
    """Removes a part of a team's place (its namespace on Kubernetes) behind the backend's back. Needed with TEAM."""
    team_leftovers: Callable[[TeamRef], Sequence[object]] = lambda team: ()
    """Lists the parts of a team's place that exist: with TEAM, not empty while the place is there."""
    clock: Callable[[], datetime] = utcnow
    """The backend's clock."""
    patience: float = 5.0
    """Seconds that a cluster, or a team's place, may take to appear or to go."""
    at_once: float = 2.0
    """Seconds that a call may take if it waits for no cluster."""
    notified: list[str] = field(default_factory=list)
    """Uids of the changed objects that the backend reported to its subscriber."""

    def can(self, capability: Capability) -> bool:
        """True if the backend declares the capability."""
        return capability in self.backend.capabilities

    @property
    def teams(self) -> TeamBackend:
        """The backend's port to the places of teams; raises Unsupported if it has none."""
        return teams_of(self.backend, self.team)

    def observe(self) -> Observation:
        """The backend's observation of the cluster."""
        return self.backend.clusters.observe(self.ref, self.spec)

    def ensure(self) -> None:
        """Ask the backend for the cluster."""
        self.backend.clusters.ensure(self.ref, self.spec, self.launch)

    def suspend(self) -> None:
        """Ask the backend to release the cluster's compute."""
        self.backend.clusters.suspend(self.ref, self.spec)

    def until(self, *phases: str) -> Observation:
        """Wait for one of these phases, and return the observation."""
        return self.until_observed(lambda observed: observed.phase in phases, " or ".join(phases))

    def until_observed(self, wanted: Callable[[Observation], bool], what: str) -> Observation:
        """Wait for an observation that is as wanted, and return it; ``what`` names it in the error."""
        return until(self.observe, wanted, what, patience=self.patience)

    def until_nothing_is_left(self) -> None:
        """Wait until an absent cluster has no remains."""
        until(lambda: list(self.leftovers(self.ref)), lambda left: not left, "gone", patience=self.patience)

    def until_mended(self, before: Observation) -> Observation:
        """Ask for the cluster whenever it is observed as failed, as the reconciler does, until another head is ready.

        A backend may report the end of the old head a moment after it was first observed, and then again.
        """
        self.ensure()
        deadline = time.monotonic() + self.patience
        while (observed := self.observe()).phase != "ready" or observed.incarnation == before.incarnation:
            assert time.monotonic() < deadline, f"not ready with another head after {self.patience:g} s, but {observed}"
            if observed.phase == "failed":
                self.ensure()
            time.sleep(0.1)
        return observed

    def until_nothing_is_missing(self, act: Callable[[], str]) -> None:
        """Repeat a call that returns the parts still missing, or still left, until it returns none."""
        until(act, lambda rest: not rest, "complete", patience=self.patience)


class BackendContract:
    """Tests for every backend."""

    def test_a_cluster_that_was_never_requested_is_absent(self, case: BackendCase) -> None:
        assert case.observe() == Observation(phase="absent")

    def test_the_cores_that_its_clusters_share_are_unknown_or_at_least_one(self, case: BackendCase) -> None:
        cores = case.backend.real_cores()
        assert cores is None or cores >= 1

    def test_renewing_the_secrets_of_a_missing_cluster_succeeds_and_makes_nothing(self, case: BackendCase) -> None:
        case.backend.clusters.renew(case.ref, {"RAYPLANE_TOKEN_PATH": "secret"})
        assert case.observe().phase == "absent"

    def test_it_declares_jobs_services_and_teams_exactly_where_it_has_their_port(self, case: BackendCase) -> None:
        backend = case.backend
        assert isinstance(backend.clusters, ClusterBackend)
        ports: dict[Capability, tuple[object | None, type]] = {
            Capability.JOB: (backend.jobs, JobBackend),
            Capability.SERVICE: (backend.services, ServiceBackend),
            Capability.TEAM: (backend.teams, TeamBackend),
        }
        for capability, (port, protocol) in ports.items():
            assert (port is not None) == case.can(capability), capability
            assert port is None or isinstance(port, protocol)

    def test_each_capability_that_it_does_not_declare_is_unsupported(self, case: BackendCase) -> None:
        backend = case.backend
        with_workers = case.spec.model_copy(update={"workers": Workers(min=0, max=2)})
        calls: dict[Capability, list[Callable[[], object]]] = {
            Capability.CREATE: [case.ensure, lambda: backend.clusters.delete(case.ref)],
            Capability.SUSPEND: [case.suspend],
            Capability.WORKERS: [lambda: backend.clusters.ensure(case.ref, with_workers, case.launch)],
            Capability.WATCH: [lambda: backend.subscribe(case.notified.append)],
            # It has no port for any call of these three.
            Capability.TEAM: [lambda: case.teams],
            Capability.JOB: [lambda: jobs_of(backend, JobRef(case.ref.team, "task", case.ref.uid, 1))],
            Capability.SERVICE: [lambda: services_of(backend, ServiceRef(case.ref.team, "model", case.ref.uid))],
            # There is nothing to call: a ready cluster's endpoint shows that these are missing.
            Capability.SERVE: [],
            Capability.CLIENT: [],
        }
        assert set(calls) == set(Capability)
        for capability in set(Capability) - backend.capabilities:
            for call in calls[capability]:
                with pytest.raises(Unsupported) as refusal:
                    call()
                assert refusal.value.remedy, f"the refusal of {capability} says no remedy"
        assert case.observe().phase == "absent"


class CreatingBackendContract(BackendContract):
    """Tests for backends with CREATE. They share one cluster, since a start may take long, in the order of its life."""

    def test_a_team_gets_its_place_and_asking_again_changes_nothing(self, case: BackendCase) -> None:
        if not case.can(Capability.TEAM):
            return
        case.until_nothing_is_missing(lambda: case.teams.ensure(case.team, case.team_spec))
        assert case.teams.ensure(case.team, case.team_spec) == ""
        assert list(case.team_leftovers(case.team)) != []

    def test_a_teams_place_that_was_disturbed_is_repaired(self, case: BackendCase) -> None:
        if not case.can(Capability.TEAM):
            return
        assert case.disturb_team is not None
        before = sorted(map(str, case.team_leftovers(case.team)))
        case.disturb_team(case.team)
        assert sorted(map(str, case.team_leftovers(case.team))) != before
        case.until_nothing_is_missing(lambda: case.teams.ensure(case.team, case.team_spec))
        assert sorted(map(str, case.team_leftovers(case.team))) == before

    def test_deleting_a_missing_cluster_succeeds(self, case: BackendCase) -> None:
        case.backend.clusters.delete(case.ref)
        case.until("absent")

    def test_preflight_accepts_a_small_cluster(self, case: BackendCase) -> None:
        assert case.backend.clusters.preflight(case.ref, case.spec, case.launch.size) == []

    def test_a_requested_cluster_becomes_ready_with_an_endpoint(self, case: BackendCase) -> None:
        if case.can(Capability.WATCH):
            case.backend.subscribe(case.notified.append)
        began = time.monotonic()
        case.ensure()
        assert time.monotonic() - began < case.at_once, "ensure must return at once"
        observed = case.until("ready")
        assert observed.incarnation
        assert observed.endpoint is not None
        assert observed.endpoint.dashboard_url.startswith("http")
        assert (observed.endpoint.serve_url is not None) == case.can(Capability.SERVE)
        assert (observed.endpoint.client_address is not None) == case.can(Capability.CLIENT)
        assert observed.environment == case.backend.environment(case.spec)

    def test_it_notifies_its_subscriber_of_the_cluster_that_changed(self, case: BackendCase) -> None:
        if case.can(Capability.WATCH):
            case.until_observed(lambda _: case.ref.uid in case.notified, "notified of the cluster that became ready")

    def test_a_ready_cluster_holds_one_head_of_the_requested_size(self, case: BackendCase) -> None:
        observed = case.until("ready")
        (head,) = _running(observed, "head")
        size = case.launch.size
        assert head.cpu == pytest.approx(size.cpu)
        assert head.gpu == pytest.approx(size.gpu)
        assert head.memory == pytest.approx(size.memory, rel=0.01)
        assert head.started_at <= case.clock() + CLOCKS
        assert case.clock() - head.started_at < timedelta(seconds=2 * case.patience)
        assert len(_running(observed, "worker")) >= case.spec.workers.min

    def test_asking_again_changes_nothing_and_a_cluster_at_rest_does_not_drift(self, case: BackendCase) -> None:
        before = case.until("ready")
        assert before.drift == ""
        case.ensure()
        deadline = time.monotonic() + min(2.0, case.patience)
        while time.monotonic() < deadline:
            assert case.observe() == before
            time.sleep(0.1)

    def test_secrets_are_renewed_as_often_as_is_asked_without_a_new_head(self, case: BackendCase) -> None:
        before = case.observe()
        for number in (1, 1, 2):
            began = time.monotonic()
            case.backend.clusters.renew(case.ref, {**case.launch.secrets, "RAYPLANE_TOKEN_PATH": f"secret-{number}"})
            assert time.monotonic() - began < case.at_once, "renew must return soon"
        after = case.observe()
        assert (after.phase, after.incarnation, after.drift) == ("ready", before.incarnation, "")
        case.backend.clusters.renew(
            replace(case.ref, uid="f" * 32), {"RAYPLANE_TOKEN_PATH": "secret"}
        )  # nothing of that is there
        case.backend.clusters.renew(case.ref, case.launch.secrets)

    def test_workers_come_and_go_and_no_node_id_is_used_twice(self, case: BackendCase) -> None:
        if not case.can(Capability.WORKERS):
            return
        assert case.scale is not None
        case.until("ready")
        least = case.spec.workers.min
        ids: set[str] = set()
        for _ in range(2):
            case.scale(case.ref, least + 1)
            observed = case.until_observed(
                lambda observed: len(_running(observed, "worker")) == least + 1, "one more worker"
            )
            came = {node.id for node in _running(observed, "worker")}
            assert len(came) == least + 1
            case.scale(case.ref, least)
            observed = case.until_observed(
                lambda observed: len(_running(observed, "worker")) == least, "one worker less"
            )
            assert observed.phase == "ready"
            gone = came - {node.id for node in _running(observed, "worker")}
            assert gone
            assert not gone & ids, "the id of a node was given twice"
            ids |= gone

    def test_a_cluster_that_drifted_is_detected_and_repaired_without_a_new_head(self, case: BackendCase) -> None:
        if case.disturb is None:
            return
        before = case.until("ready")
        case.disturb(case.ref)
        observed = case.until_observed(lambda observed: observed.drift != "", "drifted")
        assert observed.phase == "ready"
        case.ensure()
        after = case.until_observed(lambda observed: observed.drift == "" and observed.phase == "ready", "repaired")
        assert after.incarnation == before.incarnation

    def test_a_head_that_died_is_detected_and_replaced_as_another_incarnation(self, case: BackendCase) -> None:
        assert case.crash is not None
        before = case.until("ready")
        case.crash(case.ref)
        observed = case.until_observed(
            lambda observed: observed.phase == "failed" or (case.heals and observed.incarnation != before.incarnation),
            "failed",
        )
        assert observed.message or case.heals
        after = case.until_mended(before)
        (old,), (new,) = _running(before, "head"), _running(after, "head")
        assert new.id != old.id
        assert new.started_at >= old.started_at

    def test_a_suspended_cluster_holds_no_node_and_comes_back(self, case: BackendCase) -> None:
        if not case.can(Capability.SUSPEND):
            return
        before = case.until("ready")
        began = time.monotonic()
        case.suspend()
        case.suspend()
        assert time.monotonic() - began < case.at_once, "suspend must return at once"
        observed = case.until("suspended", "absent")
        assert [node for node in observed.nodes if node.ended_at is None] == []
        assert observed.endpoint is None
        case.suspend()
        assert case.until("suspended", "absent").phase == observed.phase
        case.ensure()
        after = case.until("ready")
        assert after.incarnation != before.incarnation
        assert after.drift == ""
        assert not {n.id for n in _running(before)} & {n.id for n in _running(after)}

    def test_another_gateway_finds_the_head_that_an_earlier_one_started(self, case: BackendCase) -> None:
        if case.successor is None:
            return
        before = case.until("ready")
        standing = tuple(node for node in before.nodes if node.ended_at is None)
        observed = case.successor().clusters.observe(case.ref, case.spec)
        assert observed == replace(before, nodes=standing), "only their own gateway knows when earlier heads ended"

    def test_a_deleted_cluster_goes_and_leaves_nothing(self, case: BackendCase) -> None:
        case.until("ready")
        backend = case.successor() if case.successor is not None else case.backend
        began = time.monotonic()
        backend.clusters.delete(case.ref)
        case.backend.clusters.delete(case.ref)
        assert time.monotonic() - began < case.at_once, "delete must return soon"
        observed = case.until("absent")
        assert [node for node in observed.nodes if node.ended_at is None] == []
        case.until_nothing_is_left()
        case.backend.clusters.delete(case.ref)
        case.until("absent")

    def test_a_teams_place_goes_and_leaves_nothing(self, case: BackendCase) -> None:
        if not case.can(Capability.TEAM):
            return
        case.until_nothing_is_missing(lambda: case.teams.delete(case.team))
        assert list(case.team_leftovers(case.team)) == []
        assert case.teams.delete(case.team) == ""

    def test_a_new_team_of_the_name_gets_a_place_of_its_own_which_the_old_one_does_not_take(
        self, case: BackendCase
    ) -> None:
        if not case.can(Capability.TEAM):
            return
        old, new = case.team, replace(case.team, uid=case.team.uid[::-1])
        case.until_nothing_is_missing(lambda: case.teams.ensure(old, case.team_spec))
        case.until_nothing_is_missing(lambda: case.teams.delete(old))
        case.until_nothing_is_missing(lambda: case.teams.ensure(new, case.team_spec))
        made = sorted(map(str, case.team_leftovers(new)))
        assert made != []
        assert case.teams.delete(old) == "", "it is gone, and what has its name now is another's"
        assert sorted(map(str, case.team_leftovers(new))) == made
        case.until_nothing_is_missing(lambda: case.teams.delete(new))
        assert list(case.team_leftovers(new)) == []


class ReadingBackendContract(BackendContract):
    """Tests for backends without CREATE: they refuse the capabilities that they lack, never ignore them."""

    def test_it_neither_creates_nor_suspends(self, case: BackendCase) -> None:
        assert not case.can(Capability.CREATE)
        assert not case.can(Capability.SUSPEND)


def _running(observed: Observation, kind: str | None = None) -> list[Node]:
    """The nodes that the cluster holds now."""
    return [node for node in observed.nodes if node.ended_at is None and kind in (None, node.kind)]
