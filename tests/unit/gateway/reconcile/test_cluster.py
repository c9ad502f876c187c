"""Clusters are created, restarted, suspended and deleted; their leases match their nodes' lifetimes exactly."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from rayplane.gateway.backends.base import Capability, ClusterRef, Observation
from rayplane.gateway.reconcile.cluster import ClusterReconciler
from rayplane.gateway.reconcile.cluster_look import HURRY, WATCH
from rayplane.gateway.reconcile.cluster_release import DRAIN
from rayplane.gateway.store.typed import AnyObject
from rayplane.nouns.cluster import ClusterStatus
from tests.unit.gateway.reconcile.doubles import TEAM, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.team()
    return made


@pytest.fixture
def reconciler(world: World) -> ClusterReconciler:
    return world.clusters()


def ref(obj: AnyObject) -> ClusterRef:
    return ClusterRef(TEAM, obj.metadata.name, obj.metadata.uid)


def look(reconciler: ClusterReconciler, world: World, obj: AnyObject, times: int = 1) -> ClusterStatus:
    for _ in range(times):
        reconciler.reconcile(world.get(obj))
        world.clock.forward(1)
    return ClusterStatus.model_validate(world.status(obj))


def test_an_applied_cluster_becomes_ready(world: World, reconciler: ClusterReconciler) -> None:
    cluster = world.cluster()
    assert look(reconciler, world, cluster).phase == "Starting"
    status = look(reconciler, world, cluster)
    assert status.phase == "Ready"
    assert status.observed_generation == cluster.metadata.generation
    assert status.endpoint is not None
    assert status.environment is not None
    assert status.incarnation


@pytest.mark.parametrize("placed", [True, False])
def test_the_backend_learns_whether_an_admin_placed_the_address(
    world: World, reconciler: ClusterReconciler, monkeypatch: pytest.MonkeyPatch, placed: bool
) -> None:
    cluster, asked = world.cluster(), []
    world.platform.store.set_status(cluster.metadata.uid, {**cluster.status_data, "placed": placed})
    observe = world.backend.clusters.observe
    monkeypatch.setattr(
        world.backend.clusters, "observe", lambda ref, spec: asked.append(ref.placed) or observe(ref, spec)
    )
    assert look(reconciler, world, cluster, 3).placed is placed
    assert set(asked) == {placed}


def test_the_head_gets_paths_of_secrets_and_never_secrets(world: World, reconciler: ClusterReconciler) -> None:
    cluster = world.cluster()
    look(reconciler, world, cluster)
    launched = world.backend.launched(ref(cluster))
    env, token = launched.env, launched.secrets["RAYPLANE_TOKEN_PATH"]
    assert token not in repr(launched)
    principal = world.platform.signer.verify(token)
    assert principal is not None
    assert (principal.role, principal.team, principal.cluster_uid) == ("cluster", TEAM, cluster.metadata.uid)
    assert token not in env.values()
    assert (env["MLFLOW_WORKSPACE"], env["MLFLOW_TRACKING_AUTH"]) == (TEAM, "rayplane")


def test_a_cluster_waits_until_its_team_can_track_its_jobs(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.team(phase="Pending")
    reconciler = world.clusters()
    cluster = world.cluster()
    status = look(reconciler, world, cluster)
    ready = status.condition("Ready")
    assert (status.phase, ready.reason if ready else None) == ("Pending", "TeamNotReady")
    assert world.backend.clusters.observe(ref(cluster), None).phase == "absent"  # type: ignore[arg-type]


def test_a_dead_head_is_restarted_and_the_reason_stays_readable(world: World, reconciler: ClusterReconciler) -> None:
    cluster = world.cluster()
    before = look(reconciler, world, cluster, 2)
    world.backend.crash(ref(cluster), "The raylet was killed.")
    status = look(reconciler, world, cluster)
    assert status.incarnation is None
    status = look(reconciler, world, cluster, 5)
    assert status.phase == "Ready"
    assert status.incarnation != before.incarnation
    failure = status.condition("LastFailure")
    assert failure is not None
    assert failure.message == "The raylet was killed."


def test_leases_of_one_cluster_neither_overlap_nor_stay_open(world: World, reconciler: ClusterReconciler) -> None:
    cluster = world.cluster()
    look(reconciler, world, cluster, 5)
    world.backend.crash(ref(cluster))
    look(reconciler, world, cluster, 5)
    first, second = world.store.leases(TEAM)
    assert first.ended_at is not None
    assert first.ended_at <= second.started_at
    assert second.ended_at is None
    world.store.mark_deleted(cluster.metadata.uid)
    while world.store.count("Cluster", TEAM):
        reconciler.reconcile(world.get(cluster))
    assert world.store.leases(TEAM, open_only=True) == []
    assert (first.cpu, first.memory) == (8, 8 * 2**30)


def test_repeated_failing_starts_back_off(world: World, reconciler: ClusterReconciler) -> None:
    cluster = world.cluster()
    starts = 0
    for _ in range(40):
        look(reconciler, world, cluster)
        if world.backend._started > starts:
            starts = world.backend._started
            world.backend.crash(ref(cluster))
    assert 3 <= starts <= 7


def test_a_ready_head_that_briefly_does_not_answer_keeps_its_phase(world: World, reconciler: ClusterReconciler) -> None:
    cluster = world.cluster()
    ready = look(reconciler, world, cluster, 2)
    world.backend._heads[ref(cluster)].phase = "starting"
    silent = look(reconciler, world, cluster)
    assert (silent.phase, silent.incarnation, silent.endpoint) == ("Ready", ready.incarnation, ready.endpoint)
    world.backend.become_ready(ref(cluster))
    reachable = look(reconciler, world, cluster).condition("Reachable")
    assert reachable is not None
    assert reachable.status == "True"


def test_a_ready_head_that_stays_silent_is_replaced(world: World, reconciler: ClusterReconciler) -> None:
    cluster = world.cluster()
    ready = look(reconciler, world, cluster, 2)
    world.backend._heads[ref(cluster)].phase = "starting"
    look(reconciler, world, cluster)
    # The condition's time is that of the host's clock, not of the test's: make it look as if it was set long ago.
    with world.store.transaction():
        status = ClusterStatus.model_validate(world.status(cluster))
        reachable = status.condition("Reachable")
        assert reachable is not None
        reachable.last_transition_time = world.clock() - timedelta(minutes=5)
        world.store.set_status(cluster.metadata.uid, status)
    replaced = look(reconciler, world, cluster, 6)
    assert replaced.phase == "Ready"
    assert replaced.incarnation != ready.incarnation


def test_a_failing_preflight_is_reported_and_nothing_is_started(world: World, reconciler: ClusterReconciler) -> None:
    world.backend.reasons = ["No memory. Choose a smaller size."]
    cluster = world.cluster()
    status = look(reconciler, world, cluster)
    ready = status.condition("Ready")
    assert ready is not None
    assert (status.phase, ready.message) == ("Pending", "No memory. Choose a smaller size.")
    assert world.backend._started == 0


def test_a_suspended_cluster_has_no_head_and_comes_back(world: World, reconciler: ClusterReconciler) -> None:
    cluster = world.cluster()
    look(reconciler, world, cluster, 2)
    world.store.update_spec(cluster.metadata.uid, {**cluster.spec_data, "suspended": True})
    status = look(reconciler, world, cluster, 3)
    assert (status.phase, status.endpoint) == ("Suspended", None)
    assert world.store.leases(TEAM, open_only=True) == []
    world.store.update_spec(cluster.metadata.uid, {**cluster.spec_data, "suspended": False})
    assert look(reconciler, world, cluster, 3).phase == "Ready"


def test_a_failed_removal_is_repeated(
    world: World, reconciler: ClusterReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = world.cluster()
    observation = Observation(phase="stopping")
    asked: list[ClusterRef] = []
    monkeypatch.setattr(world.backend.clusters, "observe", lambda ref, spec: observation)
    monkeypatch.setattr(world.backend.clusters, "delete", asked.append)
    assert (reconciler.reconcile(world.get(cluster)), asked) == (HURRY, [])
    observation = Observation(phase="stopping", reason="OSError", message="The folder is busy.")
    assert (reconciler.reconcile(world.get(cluster)), asked) == (WATCH, [ref(cluster)])


def test_deletion_stops_jobs_first_but_does_not_wait_for_ever(world: World, reconciler: ClusterReconciler) -> None:
    cluster = world.cluster()
    look(reconciler, world, cluster, 2)
    job = world.job()
    world.store.mark_deleted(cluster.metadata.uid)
    world.clock.now = world.get(cluster).metadata.deleted_at or world.clock.now
    reconciler.reconcile(world.get(cluster))
    assert world.get(job).spec_data["stop_requested"] is True
    assert world.backend.clusters.observe(ref(cluster), None).phase == "ready"  # type: ignore[arg-type]
    world.clock.forward(DRAIN.total_seconds() + 1)
    reconciler.reconcile(world.get(cluster))
    reconciler.reconcile(world.get(cluster))
    assert world.store.count("Cluster", TEAM) == 0


def test_a_cluster_that_others_run_is_observed_and_never_started_or_deleted(
    world: World, reconciler: ClusterReconciler
) -> None:
    world.backend.capabilities = frozenset({Capability.SERVE})
    cluster = world.cluster(address="http://ray:8265")
    look(reconciler, world, cluster, 3)
    assert world.backend._started == 0
    world.store.mark_deleted(cluster.metadata.uid)
    reconciler.reconcile(world.get(cluster))
    assert world.store.count("Cluster", TEAM) == 0


def test_a_cluster_with_a_lifetime_that_todays_rules_refuse_runs_and_is_deleted(
    world: World, reconciler: ClusterReconciler
) -> None:
    cluster = world.cluster()
    world.store.update_spec(cluster.metadata.uid, {**cluster.spec_data, "max_lifetime": 1e12})
    assert look(reconciler, world, cluster, 3).phase == "Ready"
    world.store.mark_deleted(cluster.metadata.uid)
    for _ in range(3):
        world.clock.forward(DRAIN.total_seconds() + 1)
        if world.store.get_or_none("Cluster", TEAM, "dev") is not None:
            reconciler.reconcile(world.get(cluster))
    assert world.store.get_or_none("Cluster", TEAM, "dev") is None
