"""What every backend owes the reconciler, as one suite: subclass it in a test module and bring a ``case`` fixture.

What a backend declares is tried; what it does not declare must be refused by ``Unsupported``, never ignored.
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
    ClusterRef,
    JobRef,
    LaunchContext,
    Node,
    Observation,
    ServiceRef,
    TeamRef,
)
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import ClusterSpec, Workers
from rayplane.nouns.team import Size, TeamSpec
from rayplane.testing.waiting import until

SIZE = Size(cpu=2, memory=2**30)
CLOCKS = timedelta(seconds=2)
"""By how much the clock of a node may differ from ours: the API of Kubernetes tells whole seconds."""


@dataclass
class BackendCase:
    """A backend under test and what the suite must know of it."""

    backend: Backend
    ref: ClusterRef
    spec: ClusterSpec = field(default_factory=ClusterSpec)
    launch: LaunchContext = field(default_factory=lambda: LaunchContext(size=SIZE, env={"RAYPLANE_TEAM": "alpha"}))
    successor: Callable[[], Backend] | None = None
    """Makes the backend of a gateway that is started on the same home after this one."""
    crash: Callable[[ClusterRef], None] | None = None
    """Kills the head of a ready cluster."""
    heals: bool = False
    """Whether somebody else (an operator) replaces a head that died, so that it may never be seen as failed."""
    scale: Callable[[ClusterRef, int], None] | None = None
    """Makes a ready cluster have so many workers, as far as the test must help. Needed with WORKERS."""
    disturb: Callable[[ClusterRef], None] | None = None
    """Changes what is there of a ready cluster behind the backend's back, so that it drifts."""
    leftovers: Callable[[ClusterRef], Sequence[object]] = lambda ref: ()
    """What is still there of a cluster: processes, folders, files, objects."""
    team: TeamRef = field(default_factory=lambda: TeamRef("alpha", "1123456789abcdef0123456789abcdef"))
    team_spec: TeamSpec = field(default_factory=TeamSpec)
    disturb_team: Callable[[TeamRef], None] | None = None
    """Takes something away from a team's place behind the backend's back. Needed with TEAM."""
    team_leftovers: Callable[[TeamRef], Sequence[object]] = lambda team: ()
    """What is still there of a team's place. Not empty while the place is there, with TEAM."""
    clock: Callable[[], datetime] = utcnow
    """What the backend takes for the time."""
    patience: float = 5.0
    """Seconds that a cluster, or a team's place, may take to come or go."""
    at_once: float = 2.0
    """Seconds that a call may take which waits for no cluster."""
    told: list[str] = field(default_factory=list)
    """The uids that the backend told of, once it was subscribed to."""

    def can(self, capability: Capability) -> bool:
        """Whether the backend declares it."""
        return capability in self.backend.capabilities

    def observe(self) -> Observation:
        """What the backend sees."""
        return self.backend.observe(self.ref, self.spec)

    def ensure(self) -> None:
        """Ask for the cluster."""
        self.backend.ensure(self.ref, self.spec, self.launch)

    def suspend(self) -> None:
        """Ask for its compute to be released."""
        self.backend.suspend(self.ref, self.spec)

    def until(self, *phases: str) -> Observation:
        """Wait for one of these phases."""
        return self.until_seen(lambda seen: seen.phase in phases, " or ".join(phases))

    def until_seen(self, wanted: Callable[[Observation], bool], what: str) -> Observation:
        """Wait for an observation that is as wanted."""
        return until(self.observe, wanted, what, patience=self.patience)

    def until_nothing_is_left(self) -> None:
        """Wait until nothing is there of a cluster that is absent."""
        until(lambda: list(self.leftovers(self.ref)), lambda left: not left, "gone", patience=self.patience)

    def until_mended(self, before: Observation) -> Observation:
        """Ask for it for as long as it is seen to have failed, as the reconciler does, until another head is ready.

        The end of the old head may be told of a moment after it was first seen, and once more then.
        """
        self.ensure()
        deadline = time.monotonic() + self.patience
        while (seen := self.observe()).phase != "ready" or seen.incarnation == before.incarnation:
            assert time.monotonic() < deadline, f"not ready with another head after {self.patience:g} s, but {seen}"
            if seen.phase == "failed":
                self.ensure()
            time.sleep(0.1)
        return seen

    def until_nothing_is_missing(self, act: Callable[[], str]) -> None:
        """Repeat what answers with what is still missing, or left, until that is nothing."""
        until(act, lambda rest: not rest, "complete", patience=self.patience)


class BackendContract:
    """Of every backend."""

    def test_a_cluster_that_nobody_asked_for_is_absent(self, case: BackendCase) -> None:
        assert case.observe() == Observation(phase="absent")

    def test_cores_that_its_clusters_share_are_at_least_one_or_not_told(self, case: BackendCase) -> None:
        cores = case.backend.real_cores()
        assert cores is None or cores >= 1

    def test_renewing_the_secrets_of_a_missing_cluster_succeeds_and_makes_nothing(self, case: BackendCase) -> None:
        case.backend.renew(case.ref, {"RAYPLANE_TOKEN_PATH": "secret"})
        assert case.observe().phase == "absent"

    def test_what_it_does_not_declare_is_unsupported(self, case: BackendCase) -> None:
        backend = case.backend
        with_workers = case.spec.model_copy(update={"workers": Workers(min=0, max=2)})
        calls: dict[Capability, list[Callable[[], object]]] = {
            Capability.CREATE: [case.ensure, lambda: backend.delete(case.ref)],
            Capability.SUSPEND: [case.suspend],
            Capability.WORKERS: [lambda: backend.ensure(case.ref, with_workers, case.launch)],
            Capability.WATCH: [lambda: backend.subscribe(case.told.append)],
            Capability.TEAM: [
                lambda: backend.ensure_team(case.team, case.team_spec),
                lambda: backend.delete_team(case.team),
            ],
            # What else there is of these is in the contract of jobs' and services' own nodes.
            Capability.JOB: [lambda: backend.delete_job(JobRef(case.ref.team, "task", case.ref.uid, 1))],
            Capability.SERVICE: [lambda: backend.delete_service(ServiceRef(case.ref.team, "model", case.ref.uid))],
            # That these are missing shows in the endpoint of a cluster that is ready: there is nothing to call.
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
    """For backends with CREATE. The tests share one cluster in the order of its life, since a start may take long."""

    def test_a_team_gets_its_place_and_may_be_given_it_again(self, case: BackendCase) -> None:
        if not case.can(Capability.TEAM):
            return
        case.until_nothing_is_missing(lambda: case.backend.ensure_team(case.team, case.team_spec))
        assert case.backend.ensure_team(case.team, case.team_spec) == ""
        assert list(case.team_leftovers(case.team)) != []

    def test_a_teams_place_that_was_disturbed_is_put_right(self, case: BackendCase) -> None:
        if not case.can(Capability.TEAM):
            return
        assert case.disturb_team is not None
        before = sorted(map(str, case.team_leftovers(case.team)))
        case.disturb_team(case.team)
        assert sorted(map(str, case.team_leftovers(case.team))) != before
        case.until_nothing_is_missing(lambda: case.backend.ensure_team(case.team, case.team_spec))
        assert sorted(map(str, case.team_leftovers(case.team))) == before

    def test_deleting_a_missing_cluster_succeeds(self, case: BackendCase) -> None:
        case.backend.delete(case.ref)
        case.until("absent")

    def test_preflight_has_nothing_against_a_small_cluster(self, case: BackendCase) -> None:
        assert case.backend.preflight(case.ref, case.spec, case.launch.size) == []

    def test_a_cluster_that_is_asked_for_becomes_ready_with_an_endpoint(self, case: BackendCase) -> None:
        if case.can(Capability.WATCH):
            case.backend.subscribe(case.told.append)
        began = time.monotonic()
        case.ensure()
        assert time.monotonic() - began < case.at_once, "ensure must return at once"
        seen = case.until("ready")
        assert seen.incarnation
        assert seen.endpoint is not None
        assert seen.endpoint.dashboard_url.startswith("http")
        assert (seen.endpoint.serve_url is not None) == case.can(Capability.SERVE)
        assert (seen.endpoint.client_address is not None) == case.can(Capability.CLIENT)
        assert seen.environment == case.backend.environment(case.spec)

    def test_it_tells_of_the_cluster_that_changed(self, case: BackendCase) -> None:
        if case.can(Capability.WATCH):
            case.until_seen(lambda _: case.ref.uid in case.told, "told of the cluster that became ready")

    def test_a_ready_cluster_holds_one_head_of_the_size_that_was_asked_for(self, case: BackendCase) -> None:
        seen = case.until("ready")
        (head,) = _held(seen, "head")
        size = case.launch.size
        assert head.cpu == pytest.approx(size.cpu)
        assert head.gpu == pytest.approx(size.gpu)
        assert head.memory == pytest.approx(size.memory, rel=0.01)
        assert head.started_at <= case.clock() + CLOCKS
        assert case.clock() - head.started_at < timedelta(seconds=2 * case.patience)
        assert len(_held(seen, "worker")) >= case.spec.workers.min

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
            case.backend.renew(case.ref, {**case.launch.secrets, "RAYPLANE_TOKEN_PATH": f"secret-{number}"})
            assert time.monotonic() - began < case.at_once, "renew must return soon"
        after = case.observe()
        assert (after.phase, after.incarnation, after.drift) == ("ready", before.incarnation, "")
        case.backend.renew(
            replace(case.ref, uid="f" * 32), {"RAYPLANE_TOKEN_PATH": "secret"}
        )  # nothing of that is there
        case.backend.renew(case.ref, case.launch.secrets)

    def test_workers_come_and_go_and_none_is_another(self, case: BackendCase) -> None:
        if not case.can(Capability.WORKERS):
            return
        assert case.scale is not None
        case.until("ready")
        least = case.spec.workers.min
        ids: set[str] = set()
        for _ in range(2):
            case.scale(case.ref, least + 1)
            seen = case.until_seen(lambda seen: len(_held(seen, "worker")) == least + 1, "one more worker")
            came = {node.id for node in _held(seen, "worker")}
            assert len(came) == least + 1
            case.scale(case.ref, least)
            seen = case.until_seen(lambda seen: len(_held(seen, "worker")) == least, "one worker less")
            assert seen.phase == "ready"
            gone = came - {node.id for node in _held(seen, "worker")}
            assert gone
            assert not gone & ids, "the id of a node was given twice"
            ids |= gone

    def test_a_cluster_that_drifted_is_seen_and_put_right_without_a_new_head(self, case: BackendCase) -> None:
        if case.disturb is None:
            return
        before = case.until("ready")
        case.disturb(case.ref)
        seen = case.until_seen(lambda seen: seen.drift != "", "drifted")
        assert seen.phase == "ready"
        case.ensure()
        after = case.until_seen(lambda seen: seen.drift == "" and seen.phase == "ready", "put right")
        assert after.incarnation == before.incarnation

    def test_a_head_that_died_is_seen_and_started_anew_as_another_incarnation(self, case: BackendCase) -> None:
        assert case.crash is not None
        before = case.until("ready")
        case.crash(case.ref)
        seen = case.until_seen(
            lambda seen: seen.phase == "failed" or (case.heals and seen.incarnation != before.incarnation), "failed"
        )
        assert seen.message or case.heals
        after = case.until_mended(before)
        (old,), (new,) = _held(before, "head"), _held(after, "head")
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
        seen = case.until("suspended", "absent")
        assert [node for node in seen.nodes if node.ended_at is None] == []
        assert seen.endpoint is None
        case.suspend()
        assert case.until("suspended", "absent").phase == seen.phase
        case.ensure()
        after = case.until("ready")
        assert after.incarnation != before.incarnation
        assert after.drift == ""
        assert not {n.id for n in _held(before)} & {n.id for n in _held(after)}

    def test_another_gateway_finds_the_head_that_an_earlier_one_started(self, case: BackendCase) -> None:
        if case.successor is None:
            return
        before = case.until("ready")
        standing = tuple(node for node in before.nodes if node.ended_at is None)
        seen = case.successor().observe(case.ref, case.spec)
        assert seen == replace(before, nodes=standing), "when earlier heads ended is known to their own gateway alone"

    def test_a_deleted_cluster_goes_and_leaves_nothing(self, case: BackendCase) -> None:
        case.until("ready")
        backend = case.successor() if case.successor is not None else case.backend
        began = time.monotonic()
        backend.delete(case.ref)
        case.backend.delete(case.ref)
        assert time.monotonic() - began < case.at_once, "delete must return soon"
        seen = case.until("absent")
        assert [node for node in seen.nodes if node.ended_at is None] == []
        case.until_nothing_is_left()
        case.backend.delete(case.ref)
        case.until("absent")

    def test_a_teams_place_goes_and_leaves_nothing(self, case: BackendCase) -> None:
        if not case.can(Capability.TEAM):
            return
        case.until_nothing_is_missing(lambda: case.backend.delete_team(case.team))
        assert list(case.team_leftovers(case.team)) == []
        assert case.backend.delete_team(case.team) == ""


class ReadingBackendContract(BackendContract):
    """For backends without CREATE: what they lack is refused, never ignored."""

    def test_it_makes_nothing(self, case: BackendCase) -> None:
        assert not case.can(Capability.CREATE)
        assert not case.can(Capability.SUSPEND)


def _held(seen: Observation, kind: str | None = None) -> list[Node]:
    """The nodes that the cluster holds now."""
    return [node for node in seen.nodes if node.ended_at is None and kind in (None, node.kind)]
