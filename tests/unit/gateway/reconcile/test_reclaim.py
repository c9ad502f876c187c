"""Unused clusters are suspended, resumed by work, and deleted; an expired lifetime ends a cluster after a warning."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import Conflict
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.backends.base import Capability, ClusterRef, Observation, TeamRef
from rayplane.gateway.reconcile.cluster import ClusterReconciler
from rayplane.gateway.reconcile.cluster_look import AT_REST
from rayplane.gateway.reconcile.cluster_release import DRAIN
from rayplane.gateway.reconcile.look import Look
from rayplane.gateway.reconcile.team import UNDER_WAY, TeamReconciler
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases import objects
from rayplane.nouns.cluster import ClusterStatus
from tests.unit.gateway.reconcile.doubles import TEAM, World

NEVER = datetime.max.replace(tzinfo=UTC)


class Bench:
    """A cluster, its reconciler, and a clock that advances by the pauses that the reconciler asks for."""

    def __init__(self, folder: Path, **spec: Any) -> None:
        self.world = World(folder)
        self.world.team()
        self.cluster = self.world.cluster(**spec)
        created = self.cluster.metadata.created_at
        assert created is not None
        self.world.clock.now = created  # the store uses the host's clock
        self.world.backend.capabilities |= {Capability.WATCH}
        self.woken: list[str] = []
        self.reconciler = self.restart()
        self.ref = ClusterRef(TEAM, "dev", self.cluster.metadata.uid)

    def restart(self) -> ClusterReconciler:
        """Replace the reconciler by one that knows only the store's content."""
        self.reconciler = self.world.clusters(wake=self.woken.append)
        return self.reconciler

    @property
    def status(self) -> ClusterStatus:
        return ClusterStatus.model_validate(self.world.status(self.cluster))

    @property
    def there(self) -> bool:
        return self.world.store.count("Cluster", TEAM) == 1

    def condition(self, type_: str) -> tuple[str, str]:
        entry = self.status.condition(type_)
        return ("", "") if entry is None else (entry.status, entry.message)

    def pass_time(self, seconds: float) -> ClusterStatus | None:
        """Do what the loop does in so many seconds; None once the cluster is gone."""
        end = self.world.clock.now.timestamp() + seconds
        while self.there:
            self.woken.clear()
            again = self.reconciler.reconcile(self.world.get(self.cluster))
            again = 0.0 if self.woken else again
            left = end - self.world.clock.now.timestamp()
            if again is None or again > left:
                self.world.clock.forward(max(0.0, left))
                return self.status if self.there else None
            self.world.clock.forward(max(again, 0.01))
        return None


@pytest.fixture
def idle(tmp_path: Path) -> Bench:
    return Bench(tmp_path, idle_timeout=600, delete_after_idle=3600)


def test_an_unused_cluster_is_suspended_and_then_deleted_completely(idle: Bench) -> None:
    spec = idle.cluster.spec
    status = idle.pass_time(300)
    assert status is not None
    assert status.phase == "Ready"
    truth, message = idle.condition("Idle")
    assert truth == "True"
    assert "rayplane cluster extend dev 2h --team alpha" in message
    status = idle.pass_time(400)
    assert status is not None
    assert status.phase == "Suspended"
    assert status.suspension is not None
    assert (status.suspension.reason, status.endpoint) == ("Idle", None)
    assert "Unused since" in idle.condition("Ready")[1]
    assert "It is deleted" in idle.condition("Ready")[1]
    assert idle.world.get(idle.cluster).spec == spec, "applying its file again changes nothing"
    assert idle.world.store.leases(TEAM, open_only=True) == []
    assert idle.pass_time(3600) is None
    rows = [(r["principal"], r["action"]) for r in idle.world.store.audit_log(TEAM).items]
    assert rows == [("rayplane", "delete"), ("rayplane", "suspend")]


def test_ray_is_asked_seldom_and_never_if_the_answer_does_not_matter(idle: Bench, tmp_path: Path) -> None:
    idle.world.ray.components = {"driver": {"is_active": "ACTIVE", "reason": "Number of active drivers: 1"}}
    idle.pass_time(1800)
    assert 1800 / 60 <= idle.world.ray.asked <= 1800 / 15
    calm = Bench(tmp_path / "calm")
    calm.pass_time(1800)
    assert calm.world.ray.asked == 0


@pytest.mark.parametrize("use", ["driver", "application", "job", "service", "doubt"])
def test_a_cluster_whose_use_is_active_or_unknown_is_kept(idle: Bench, use: str) -> None:
    ray = idle.world.ray
    idle.pass_time(10)
    if use == "driver":
        ray.components = {"driver": {"is_active": "ACTIVE", "reason": "Number of active drivers: 1"}}
    elif use == "application":
        ray.applications = {"delay": {"status": "RUNNING"}}
    elif use == "job":
        idle.world.job()
    elif use == "service":
        idle.world.store.put("Service", TEAM, "delay", {"cluster": "dev"}, owner="test")
    else:
        ray.down = True
    status = idle.pass_time(2000)
    assert status is not None
    assert (status.phase, status.suspension) == ("Ready", None)
    if use in ("job", "service"):
        assert ray.asked <= 1, "Ray is not asked about work that the platform knows"
    if use == "doubt":
        assert "use is unknown" in idle.condition("Idle")[1]


def test_a_restarted_gateway_goes_on_counting_but_asks_first(idle: Bench) -> None:
    idle.pass_time(500)
    idle.restart()
    idle.world.clock.forward(200)
    idle.world.ray.applications = {"delay": {"status": "RUNNING"}}
    status = idle.pass_time(1)
    assert status is not None
    assert (status.phase, status.idle_since) == ("Ready", None)
    idle.world.ray.applications = {}
    idle.pass_time(300)
    idle.restart()
    status = idle.pass_time(330)
    assert status is not None
    assert status.phase == "Suspended"


def test_a_job_resumes_a_suspended_cluster_and_runs_on_a_new_head(idle: Bench) -> None:
    before = idle.pass_time(100)
    idle.pass_time(700)
    assert idle.status.phase == "Suspended"
    idle.world.job()
    after = idle.pass_time(10)
    assert before is not None
    assert after is not None
    assert after.phase == "Ready"
    assert after.incarnation != before.incarnation
    first, second = idle.world.store.leases(TEAM)
    assert first.ended_at is not None
    assert first.ended_at < second.started_at


def test_a_cluster_is_resumed_for_a_waiting_job_once_the_quota_allows_it(idle: Bench) -> None:
    idle.pass_time(700)
    team = idle.world.store.get("Team", "", TEAM)
    idle.world.store.update_spec(team.metadata.uid, {**team.spec_data, "quota": {"cpu": 4}})
    idle.world.job()
    idle.pass_time(60)
    assert idle.status.phase == "Suspended"
    assert "needed by job 'task', but: " in idle.condition("Ready")[1]
    assert "quota 'cpu' is exceeded" in idle.condition("Ready")[1]
    idle.world.store.update_spec(team.metadata.uid, {**team.spec_data, "quota": {"cpu": 64}})
    status = idle.pass_time(60)
    assert status is not None
    assert status.phase == "Ready"


def test_work_that_arrives_during_the_decision_wins(idle: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    idle.pass_time(590)
    ask = idle.reconciler._activity.ask

    def ask_and_submit(*args: Any) -> Any:
        answer = ask(*args)
        if idle.world.store.count("Job", TEAM) == 0:
            idle.world.job()
        return answer

    monkeypatch.setattr(idle.reconciler._activity, "ask", ask_and_submit)
    status = idle.pass_time(30)
    assert status is not None
    assert (status.phase, status.suspension, status.idle_since) == ("Ready", None, None)


def test_extending_postpones_idle_suspension(idle: Bench) -> None:
    idle.pass_time(500)
    clusters.extend(TEAM, "dev", 3600, principal=SYSTEM, platform=idle.world.platform, clock=idle.world.clock)
    status = idle.pass_time(3000)
    assert status is not None
    assert status.phase == "Ready"
    idle.pass_time(700)
    assert idle.status.phase == "Suspended"


def test_a_user_can_resume_an_idle_cluster_and_its_idle_time_starts_again(idle: Bench) -> None:
    idle.pass_time(700)
    clusters.resume(TEAM, "dev", principal=SYSTEM, platform=idle.world.platform)
    idle.pass_time(500)
    assert idle.status.phase == "Ready"
    idle.pass_time(200)
    assert idle.status.phase == "Suspended"


def test_a_cluster_that_a_user_suspended_is_not_deleted_for_idleness(idle: Bench) -> None:
    idle.pass_time(700)
    clusters.suspend(TEAM, "dev", principal=SYSTEM, platform=idle.world.platform)
    status = idle.pass_time(100_000)
    assert status is not None
    assert (status.phase, idle.condition("Ready")[1]) == ("Suspended", "Suspended on request.")


def test_a_cluster_without_a_deletion_time_stays_suspended(tmp_path: Path) -> None:
    bench = Bench(tmp_path, idle_timeout=600)
    status = bench.pass_time(100_000)
    assert status is not None
    assert status.phase == "Suspended"


def test_a_lifetime_warns_drains_and_deletes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_lifetime=7200)
    bench.pass_time(6000)
    assert bench.condition("Expiring") == ("", "")
    job = bench.world.job()
    bench.pass_time(600)
    truth, message = bench.condition("Expiring")
    assert truth == "True"
    assert "it is suspended and deleted then" in message
    bench.pass_time(605)
    assert bench.world.get(job).spec_data["stop_requested"] is True
    assert bench.status.phase == "Ready", "its job may still end by itself"
    bench.world.store.set_status(job.metadata.uid, {"phase": "Stopped"})
    assert bench.pass_time(DRAIN.total_seconds() + 5) is None
    assert bench.world.backend.clusters.observe(bench.ref, None).phase == "absent"  # type: ignore[arg-type]


def test_an_expired_lifetime_ends_jobs_that_do_not_stop(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_lifetime=7200)
    bench.pass_time(7100)
    job = bench.world.job()
    bench.pass_time(200)
    assert bench.status.phase == "Suspended"
    bench.world.store.set_status(job.metadata.uid, {"phase": "Failed"})
    assert bench.pass_time(60) is None


def test_a_cluster_with_a_service_is_suspended_at_the_end_of_its_lifetime_but_not_deleted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_lifetime=7200)
    bench.world.store.put("Service", TEAM, "delay", {"cluster": "dev"}, owner="test")
    status = bench.pass_time(7800)
    assert status is not None
    assert status.phase == "Suspended"
    assert "not deleted while service 'delay' is on it" in bench.condition("Ready")[1]
    clusters.extend(TEAM, "dev", 3600, principal=SYSTEM, platform=bench.world.platform, clock=bench.world.clock)
    status = bench.pass_time(60)
    assert status is not None
    assert status.phase == "Ready"


def test_a_teams_terms_hold_for_its_clusters_except_on_backends_that_can_not_suspend(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    team = bench.world.store.get("Team", "", TEAM)
    bench.world.store.update_spec(team.metadata.uid, {**team.spec_data, "idle_timeout": 600})
    able = bench.world.backend.capabilities
    bench.world.backend.capabilities = able - {Capability.SUSPEND}
    bench.pass_time(2000)
    assert bench.status.phase == "Ready"
    bench.world.backend.capabilities = able
    bench.pass_time(2000)
    assert bench.status.phase == "Suspended"


def test_drift_is_repaired_at_once_and_then_with_back_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.pass_time(10)
    backend, asked = bench.world.backend, []
    backend.disturb(bench.ref)
    bench.pass_time(5)
    assert backend.clusters.observe(bench.ref, None).drift == ""  # type: ignore[arg-type]
    backend.disturb(bench.ref)
    monkeypatch.setattr(backend.clusters, "ensure", lambda ref, spec, launch: asked.append(ref))
    bench.pass_time(120)
    assert 3 <= len(asked) <= 8


def test_a_changed_spec_is_applied_to_a_running_cluster(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.pass_time(10)
    wanted = {**bench.cluster.spec_data, "workers": {"min": 2, "max": 4}}
    bench.world.store.update_spec(bench.cluster.metadata.uid, wanted)
    bench.pass_time(5)
    assert len([n for n in bench.world.backend.nodes(bench.ref) if n.kind == "worker"]) == 2
    assert len(bench.world.store.leases(TEAM, open_only=True)) == 3
    assert bench.status.observed_generation == 2


def test_a_cluster_at_rest_is_left_alone_if_the_backend_reports_changes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.pass_time(60)
    before = bench.world.backend.observed
    assert bench.reconciler.reconcile(bench.world.get(bench.cluster)) == AT_REST
    assert bench.world.backend.observed == before + 1
    version = bench.world.get(bench.cluster).metadata.resource_version
    bench.reconciler.reconcile(bench.world.get(bench.cluster))
    assert bench.world.get(bench.cluster).metadata.resource_version == version, "a look at rest writes nothing"
    bench.woken.clear()
    bench.world.backend.crash(bench.ref)
    assert bench.woken == [bench.cluster.metadata.uid]


def team_bench(tmp_path: Path) -> tuple[World, TeamReconciler, AnyObject, TeamRef]:
    world = World(tmp_path, mlflow_url=None)
    world.backend.capabilities |= {Capability.TEAM}
    team = world.team(phase="Pending")
    reconciler = TeamReconciler(world.platform, None, lambda name: world.backend)
    return world, reconciler, team, TeamRef(TEAM, team.metadata.uid)


def test_a_team_is_ready_once_its_place_is_there_and_gone_once_that_is_gone(tmp_path: Path) -> None:
    world, reconciler, team, ref = team_bench(tmp_path)
    world.backend.missing = "Its namespace is being made."
    assert reconciler.reconcile(world.get(team)) == UNDER_WAY
    assert (world.status(team)["phase"], world.status(team)["places"]) == ("Pending", {"local": world.backend.missing})
    world.backend.missing = ""
    assert reconciler.reconcile(world.get(team)) == 300
    assert (world.status(team)["phase"], world.status(team)["places"]) == ("Ready", {"local": ""})
    assert ref in world.backend.places
    del world.backend.places[ref]
    reconciler.reconcile(world.get(team))
    assert ref in world.backend.places, "drift is repaired"
    world.store.mark_deleted(team.metadata.uid)
    world.backend.missing = "Its namespace still has 2 pods."
    assert reconciler.reconcile(world.get(team)) == UNDER_WAY
    assert world.status(team)["phase"] == "Deleting"
    world.backend.missing = ""
    assert reconciler.reconcile(world.get(team)) is None
    assert (world.store.count("Team"), world.backend.places) == (0, {})


def test_a_cluster_waits_for_its_teams_place_on_its_own_backend(tmp_path: Path) -> None:
    world, reconciler, team, ref = team_bench(tmp_path)
    woken: list[str] = []
    clusters_ = world.clusters(wake=woken.append)
    cluster = world.cluster(backend="other")
    clusters_.reconcile(world.get(cluster))
    assert (world.status(cluster)["phase"], woken) == ("Pending", [team.metadata.uid])
    reconciler.reconcile(world.get(team))
    assert world.status(team)["places"] == {"local": "", "other": ""}
    clusters_.reconcile(world.get(cluster))
    assert world.status(cluster)["phase"] == "Starting"
    objects.delete("Cluster", TEAM, "dev", principal=SYSTEM, platform=world.platform)
    while world.store.count("Cluster", TEAM):
        clusters_.reconcile(world.get(cluster))
    reconciler.reconcile(world.get(team))
    assert world.status(team)["places"] == {"local": ""}
    assert ref not in world.backend.places, "one fake stands for both: the place on the other one went"


def later(bench: Bench, **spec: Any) -> None:
    """Apply the cluster's spec again with these fields."""
    wanted = {**bench.world.get(bench.cluster).spec_data, **spec}
    objects.apply("Cluster", TEAM, "dev", wanted, labels={}, principal=SYSTEM, platform=bench.world.platform)


@pytest.mark.parametrize("ill", ["never ready", "silent", "drifted", "failed", "suspended for idleness"])
def test_an_expired_lifetime_ends_a_cluster_in_any_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ill: str
) -> None:
    bench = Bench(tmp_path, max_lifetime=7200, idle_timeout=600 if ill == "suspended for idleness" else None)
    if ill not in ("never ready", "failed"):
        bench.pass_time(10)
    backend, observe_really = bench.world.backend, bench.world.backend.clusters.observe
    with monkeypatch.context() as patch:
        changed: dict[str, dict[str, Any]] = {
            "never ready": {"phase": "starting", "endpoint": None, "incarnation": None},
            "silent": {"phase": "starting", "endpoint": None},
            "failed": {"phase": "failed", "endpoint": None, "incarnation": None, "reason": "X", "message": "It fell."},
            "drifted": {"drift": "A webhook changes it back."},
            "suspended for idleness": {},
        }

        def observe(ref: ClusterRef, spec: Any) -> Any:
            observation = observe_really(ref, spec)
            return replace(observation, **changed[ill]) if observation.phase == "ready" else observation

        patch.setattr(backend.clusters, "observe", observe)
        bench.pass_time(7190)
        assert bench.there
        assert bench.pass_time(120) is None
    assert bench.world.store.leases(TEAM, open_only=True) == []


def test_a_cluster_that_drifts_for_ever_is_still_suspended_when_idle(
    idle: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle.pass_time(10)
    observe = idle.world.backend.clusters.observe
    monkeypatch.setattr(
        idle.world.backend.clusters,
        "observe",
        lambda ref, spec: replace(observe(ref, spec), drift="A webhook changes it back."),
    )
    status = idle.pass_time(1000)
    assert status is not None
    assert status.phase == "Suspended"


def test_a_cluster_past_its_lifetime_accepts_no_work_and_does_not_run_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_lifetime=7200)
    here: dict[str, Any] = {"principal": SYSTEM, "platform": bench.world.platform}
    bench.pass_time(10)
    clusters.suspend(TEAM, "dev", **here)
    bench.pass_time(8000)
    with pytest.raises(Conflict, match=r"Its lifetime ended .*rayplane cluster extend dev 2h"):
        clusters.resume(TEAM, "dev", **here)
    with pytest.raises(Conflict, match="takes nothing new"):
        bench.world.job()
    with pytest.raises(Conflict, match="takes nothing new"):
        later(bench, suspended=False)
    clusters.extend(TEAM, "dev", 3600, **here, clock=bench.world.clock)
    clusters.resume(TEAM, "dev", **here)
    status = bench.pass_time(60)
    assert status is not None
    assert status.phase == "Ready"


def test_a_longer_lifetime_resumes_an_expired_cluster_that_a_service_kept_from_deletion(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_lifetime=7200)
    bench.world.store.put("Service", TEAM, "delay", {"cluster": "dev"}, owner="test")
    bench.pass_time(7800)
    assert bench.status.suspension is not None
    later(bench, max_lifetime=7300)
    assert bench.status.suspension is not None
    later(bench, max_lifetime=20_000)
    status = bench.pass_time(60)
    assert status is not None
    assert status.phase == "Ready"


def test_a_job_that_an_expired_lifetime_ended_reports_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_lifetime=7200)
    bench.pass_time(7190)
    job = bench.world.job()
    bench.pass_time(15)
    look = Look(bench.world.get(job), bench.world.clock.now)
    assert look.stop_reason is not None
    assert look.stop_reason.startswith("Cluster 'dev' was suspended. Its lifetime ended ")


def test_a_cluster_whose_size_no_longer_exists_can_be_suspended(idle: Bench) -> None:
    idle.pass_time(10)
    team = idle.world.store.get("Team", "", TEAM)
    sizes = {"large": {"cpu": 4, "memory": 2**30}}
    idle.world.store.update_spec(team.metadata.uid, {**team.spec_data, "sizes": sizes})
    status = idle.pass_time(1000)
    assert status is not None
    assert status.phase == "Suspended"
    assert idle.world.store.leases(TEAM, open_only=True) == []


def test_applying_a_spec_to_an_idle_cluster_overrides_the_decision_to_suspend(idle: Bench) -> None:
    idle.pass_time(700)
    later(idle, suspended=True)
    idle.pass_time(10_000)
    assert idle.status.phase == "Suspended"
    later(idle, suspended=False)
    status = idle.pass_time(60)
    assert status is not None
    assert status.phase == "Ready"
    idle.pass_time(700)
    assert idle.status.suspension is not None
    later(idle, idle_timeout=None, delete_after_idle=None)
    status = idle.pass_time(10_000)
    assert status is not None
    assert status.suspension is not None
    assert status.suspension.delete_at is None
    assert "It is deleted" not in idle.condition("Ready")[1]


def test_resuming_a_cluster_during_the_decision_to_delete_keeps_it(
    idle: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle.pass_time(700)
    work_of = clusters.work_of

    def looked_at(team: str, name: str, platform: Any) -> str:
        work = work_of(team, name, platform)
        if idle.status.suspension is not None and idle.world.clock.now >= (idle.status.suspension.delete_at or NEVER):
            clusters.resume(TEAM, "dev", principal=SYSTEM, platform=platform)
        return work

    monkeypatch.setattr(clusters, "work_of", looked_at)
    status = idle.pass_time(4000)
    assert status is not None
    assert status.suspension is None or status.suspension.at > idle.world.clock.now - timedelta(seconds=3600)


def test_resuming_a_running_cluster_restarts_its_idle_time(idle: Bench) -> None:
    idle.pass_time(595)
    clusters.resume(TEAM, "dev", principal=SYSTEM, platform=idle.world.platform)
    status = idle.pass_time(500)
    assert status is not None
    assert status.phase == "Ready"
    idle.pass_time(200)
    assert idle.status.phase == "Suspended"


def test_without_an_idle_timeout_idleness_is_not_reported_and_looks_are_rare(tmp_path: Path) -> None:
    bench = Bench(tmp_path, idle_timeout=600, max_lifetime=86_400)
    bench.pass_time(300)
    assert bench.condition("Idle")[0] == "True"
    later(bench, idle_timeout=None)
    before = bench.world.backend.observed
    bench.pass_time(3000)
    assert bench.world.backend.observed - before <= 15
    assert bench.condition("Idle")[0] == "False"


def test_a_spec_that_changes_during_the_start_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    backend, observe = bench.world.backend, bench.world.backend.clusters.observe
    with monkeypatch.context() as patch:
        patch.setattr(backend.clusters, "observe", lambda ref, spec: starting(observe(ref, spec)))
        bench.pass_time(20)
        later(bench, workers={"min": 2, "max": 4})
        bench.pass_time(20)
    status = bench.pass_time(20)
    assert status is not None
    assert status.phase == "Ready"
    assert len([node for node in backend.nodes(bench.ref) if node.kind == "worker"]) == 2


def test_an_interrupted_creation_is_completed_during_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    backend, observe, ensured = bench.world.backend, bench.world.backend.clusters.observe, []
    ensure = backend.clusters.ensure

    def counted(ref: ClusterRef, spec: Any, launch: Any) -> None:
        ensured.append(ref)
        ensure(ref, spec, launch)

    monkeypatch.setattr(backend.clusters, "ensure", counted)
    monkeypatch.setattr(
        backend.clusters,
        "observe",
        lambda ref, spec: starting(observe(ref, spec), drift="its Secret" if len(ensured) < 2 else ""),
    )
    bench.pass_time(60)
    assert len(ensured) == 2


def test_a_head_failure_that_another_leader_handled_is_not_reported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.pass_time(20)
    backend, observe, before = bench.world.backend, bench.world.backend.clusters.observe, bench.status
    remembered = Observation("failed", reason="HeadGone", message="It was deleted.", ended="another-head")
    with monkeypatch.context() as patch:
        patch.setattr(backend.clusters, "observe", lambda ref, spec: remembered)
        patch.setattr(
            backend.clusters, "ensure", lambda ref, spec, launch: patch.setattr(backend.clusters, "observe", observe)
        )
        bench.pass_time(60)
    assert (bench.status.phase, bench.status.incarnation) == ("Ready", before.incarnation)
    assert bench.condition("LastFailure") == ("", "")


def starting(observation: Observation, **more: Any) -> Observation:
    """Turn a ready observation into that of a starting head."""
    if observation.phase != "ready":
        return observation
    return replace(observation, phase="starting", endpoint=None, incarnation=None, **more)


def test_a_ray_that_others_run_keeps_its_jobs_if_it_briefly_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.pass_time(10)
    backend, before = bench.world.backend, bench.status
    silent = Observation("failed", reason="Unreachable", message="It does not answer.")
    backend.capabilities -= {Capability.CREATE, Capability.SUSPEND, Capability.WATCH}
    with monkeypatch.context() as patch:
        patch.setattr(backend.clusters, "observe", lambda ref, spec: silent)
        bench.pass_time(30)
        assert (bench.status.phase, bench.status.incarnation) == ("Ready", before.incarnation)
        assert bench.condition("Reachable") == ("False", "It does not answer.")
    bench.pass_time(10)
    assert bench.condition("Reachable")[0] == "True"
    with monkeypatch.context() as patch:
        patch.setattr(backend.clusters, "observe", lambda ref, spec: silent)
        bench.pass_time(120)
        assert (bench.status.phase, bench.status.incarnation) == ("Failed", None)


@pytest.mark.parametrize("deleted", [True, False])
def test_a_place_on_a_backend_without_places_any_more_is_forgotten(tmp_path: Path, deleted: bool) -> None:
    world, reconciler, team, _ = team_bench(tmp_path)
    reconciler.reconcile(world.get(team))
    assert world.status(team)["places"] == {"local": ""}
    world.backend.capabilities -= {Capability.TEAM}
    if deleted:
        world.store.mark_deleted(team.metadata.uid)
    assert reconciler.reconcile(world.get(team)) is None
    if deleted:
        assert world.store.count("Team") == 0
    else:
        assert (world.status(team)["phase"], world.status(team)["places"]) == ("Ready", {})
