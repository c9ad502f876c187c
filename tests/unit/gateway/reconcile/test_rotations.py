"""Rotated secrets reach running clusters, jobs and services, the audit log and MLflow; failures are reported."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rayplane import rotation
from rayplane.errors import Unauthenticated, Unavailable
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.admission.tokens import HomeSigner
from rayplane.gateway.backends.base import Capability, ClusterRef
from rayplane.gateway.reconcile.renewal import CONDITION
from rayplane.gateway.reconcile.rotations import Rotations
from rayplane.gateway.reconcile.team import TeamReconciler, credentials_path
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.why import explain
from rayplane.nouns.base import Status
from rayplane.settings import read_secret, write_secret
from tests.unit.gateway.reconcile.doubles import TEAM, World
from tests.unit.gateway.reconcile.test_own_nodes_job import Bench as JobBench
from tests.unit.gateway.reconcile.test_own_nodes_service import Bench as ServiceBench

TOKEN = "RAYPLANE_TOKEN_PATH"


@dataclass
class Mlflow:
    """Fake of MLflow's REST API with its users."""

    users: dict[str, str] = field(default_factory=lambda: {"admin": "old-password"})
    me: tuple[str, str] = ("admin", "old-password")
    down: bool = False

    def ensure_workspace(self, workspace: str, owner: str, *, adopt: bool = False) -> bool:
        self._check()
        return True

    def ensure_user(self, team: str, user: str, password: str) -> None:
        self._check()
        self.users[user] = password

    def delete_user(self, user: str) -> None:
        self._check()
        self.users.pop(user, None)

    def change_password(self, user: str, password: str) -> None:
        self._check()
        self.users[user] = password

    def require_admin(self) -> None:
        self._check()

    def use(self, user: str, password: str) -> None:
        self.me = (user, password)

    def _check(self) -> None:
        if self.down:
            raise Unavailable("MLflow does not answer.")
        if self.users.get(self.me[0]) != self.me[1]:
            raise Unauthenticated("MLflow answered 401.")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.team()
    return made


def rotate_key(world: World, *, grace: float = 3600) -> None:
    path = rotation.ring_path(world.settings.home_paths)
    ring = rotation.read_ring(path)
    until = time.time() + grace  # the signer uses the host's clock
    write_secret(path, ring.rotated(f"{len(ring.former)}-another-key-of-some-length", until=until).text)
    look_at_files(world.platform)


def look_at_files(platform: Platform) -> None:
    assert isinstance(platform.signer, HomeSigner)
    assert platform.signer.verify("no token") is None  # for an unknown token the signer reads its files again


def condition(world: World, obj: AnyObject) -> tuple[str, str] | None:
    entry = Status.model_validate(world.status(obj)).condition(CONDITION)
    return None if entry is None else (entry.status, entry.message)


def ready(world: World, **spec: Any) -> tuple[Any, AnyObject, ClusterRef]:
    reconciler, cluster = world.clusters(), world.cluster(**spec)
    for _ in range(2):
        reconciler.reconcile(world.get(cluster))
    return reconciler, cluster, ClusterRef(TEAM, cluster.metadata.name, cluster.metadata.uid)


def test_a_ready_cluster_gets_the_new_token_and_its_head_stays(world: World) -> None:
    reconciler, cluster, ref = ready(world)
    head = world.status(cluster)["incarnation"]
    old = world.backend.launched(ref).secrets[TOKEN]
    rotate_key(world)
    reconciler.reconcile(world.get(cluster))
    new = world.backend.renewed[ref][TOKEN]
    assert new != old
    assert world.platform.signer.verify(new) == world.platform.signer.verify(old)
    assert world.status(cluster)["incarnation"] == head
    assert condition(world, cluster) is None


def test_renewing_a_cluster_at_rest_writes_nothing(world: World) -> None:
    reconciler, cluster, _ = ready(world)
    rotate_key(world)
    reconciler.reconcile(world.get(cluster))
    version = world.get(cluster).metadata.resource_version
    for _ in range(3):
        reconciler.reconcile(world.get(cluster))
    assert world.get(cluster).metadata.resource_version == version


def test_a_failed_renewal_is_reported_until_one_succeeds(world: World) -> None:
    reconciler, cluster, ref = ready(world)
    rotate_key(world)
    world.backend.unreachable = "The API server does not answer."
    world.backend.capabilities |= {Capability.WATCH}
    assert reconciler.reconcile(world.get(cluster)) <= 15
    reported = condition(world, cluster)
    assert reported is not None
    assert reported[0] == "False"
    assert "The API server does not answer." in reported[1]
    assert "is accepted until" in reported[1]
    (cause,) = explain("Cluster", TEAM, "dev", principal=SYSTEM, platform=world.platform).causes
    assert cause.code == "token-not-renewed"
    assert "suspend and resume" in cause.remedy
    world.backend.unreachable = ""
    reconciler.reconcile(world.get(cluster))
    assert condition(world, cluster) == ("True", "")
    assert TOKEN in world.backend.renewed[ref]
    assert explain("Cluster", TEAM, "dev", principal=SYSTEM, platform=world.platform).causes == []


def test_a_job_on_nodes_of_its_own_gets_the_new_token_while_it_runs(tmp_path: Path) -> None:
    bench = JobBench(tmp_path)
    job = bench.job()
    bench.run(job)
    old = bench.made(job).launch.secrets[TOKEN]
    rotate_key(bench.world)
    bench.look(job)
    assert bench.world.backend.renewed[bench.ref(job)][TOKEN] != old
    bench.world.backend.unreachable = "The API server does not answer."
    bench.look(job)
    reported = condition(bench.world, job)
    assert reported is not None
    assert reported[0] == "False"
    bench.world.backend.unreachable = ""
    assert bench.look(job).phase == "Running"
    assert condition(bench.world, job) == ("True", "")
    bench.jobs.stop()


def test_a_service_on_nodes_of_its_own_gets_the_new_token_while_it_serves(tmp_path: Path) -> None:
    bench = ServiceBench(tmp_path)
    service = bench.service()
    bench.ready(service)
    old = bench.made(service).launch.secrets[TOKEN]
    rotate_key(bench.world)
    bench.world.backend.unreachable = "The API server does not answer."
    assert bench.look(service).phase == "Ready"
    reported = condition(bench.world, service)
    assert reported is not None
    assert reported[0] == "False"
    bench.world.backend.unreachable = ""
    bench.look(service)
    assert condition(bench.world, service) == ("True", "")
    assert bench.world.backend.renewed[bench.ref(service)][TOKEN] != old


def test_a_rotation_is_in_the_audit_log_once_and_everything_is_looked_at(world: World) -> None:
    looks: list[str] = []
    rotations = Rotations.from_now(world.platform, None, everything=lambda: looks.append("all"))
    rotations.look()
    assert looks == []
    home = world.settings.home_paths
    rotation.write_note(home, "signing", {"accepted_until": "2026-01-01T01:00:00+00:00"}, at=100.0)
    rotation.write_note(home, "mlflow-teams", {"team": TEAM}, at=101.0)
    notes = {path: path.read_text() for path, _ in rotation.read_notes(home)}
    rotations.look()
    assert looks == ["all"]
    for path, text in notes.items():  # as if the gateway had died between writing the row and deleting the note
        write_secret(path, text)
    rotations.look()
    rows = world.store.audit_log(None, action="rotate").items
    assert [(row["principal"], row["kind"], row["name"], row["team"]) for row in rows] == [
        ("local", "Secret", "mlflow-teams", TEAM),
        ("local", "Secret", "signing", ""),
    ]
    assert rows[1]["detail"]["at"] == "1970-01-01T00:01:40+00:00"
    assert rotation.read_notes(home) == []


def test_a_new_signing_key_alone_has_everything_looked_at(world: World) -> None:
    looks: list[str] = []
    rotations = Rotations.from_now(world.platform, None, everything=lambda: looks.append("all"))
    rotate_key(world)
    rotations.look()
    rotations.look()
    assert looks == ["all"]


@pytest.fixture
def admin(world: World) -> Path:
    path = world.settings.home / "secrets" / "mlflow-admin"
    write_secret(path, "admin\nold-password\n")
    write_secret(rotation.next_path(path), "admin\nnew-password\n")
    world.settings.mlflow_admin_path = path
    return path


@pytest.mark.parametrize("ended_in_between", [False, True])
def test_the_next_admin_password_is_set_in_mlflow_and_then_stored_in_the_home(
    world: World, admin: Path, ended_in_between: bool
) -> None:
    mlflow = Mlflow()
    rotations = Rotations.from_now(world.platform, mlflow)  # type: ignore[arg-type]
    mlflow.down = True
    with pytest.raises(Unavailable):
        rotations.look()
    assert read_secret(admin).splitlines() == ["admin", "old-password"]
    mlflow.down = False
    if ended_in_between:
        mlflow.users["admin"] = "new-password"
    rotations.look()
    assert mlflow.users["admin"] == "new-password"
    assert mlflow.me == ("admin", "new-password")
    assert read_secret(admin).splitlines() == ["admin", "new-password"]
    assert not rotation.next_path(admin).exists()


def test_a_team_switches_to_its_next_mlflow_user_and_the_former_is_deleted_after_its_grace(world: World) -> None:
    mlflow = Mlflow()
    teams = TeamReconciler(world.platform, mlflow, lambda name: world.backend, clock=world.clock)  # type: ignore[arg-type]
    team = world.store.get("Team", "", TEAM)
    path = credentials_path(world.settings.home_paths, TEAM)
    assert teams.reconcile(team) is None
    write_secret(rotation.next_path(path), "rayplane-alpha.2\nnext-password\n")
    write_secret(rotation.former_path(path), "rayplane-alpha\n5\n600\n")
    again = teams.reconcile(team)
    assert again is not None
    assert 0 < again <= 300
    assert {"rayplane-alpha": "password", "rayplane-alpha.2": "next-password"}.items() <= mlflow.users.items()
    assert read_secret(path).splitlines() == ["rayplane-alpha.2", "next-password"]
    world.clock.forward(599)
    teams.reconcile(team)
    assert "rayplane-alpha" in mlflow.users  # its grace period began only with the switch to the next one
    world.clock.forward(2)
    assert teams.reconcile(team) is None
    assert mlflow.users == {"admin": "old-password", "rayplane-alpha.2": "next-password"}
    assert not rotation.former_path(path).exists()


def test_a_rotation_that_was_killed_before_it_named_the_next_user_deletes_none(world: World) -> None:
    mlflow = Mlflow()
    teams = TeamReconciler(world.platform, mlflow, lambda name: world.backend, clock=world.clock)  # type: ignore[arg-type]
    team = world.store.get("Team", "", TEAM)
    path = credentials_path(world.settings.home_paths, TEAM)
    teams.reconcile(team)
    write_secret(rotation.former_path(path), "rayplane-alpha\n5\n600\n")
    teams.reconcile(team)
    assert "rayplane-alpha" in mlflow.users
    assert not rotation.former_path(path).exists()


def test_deleting_a_team_deletes_both_of_its_mlflow_users(world: World) -> None:
    mlflow = Mlflow()
    teams = TeamReconciler(world.platform, mlflow, lambda name: world.backend, clock=world.clock)  # type: ignore[arg-type]
    team = world.store.get("Team", "", TEAM)
    path = credentials_path(world.settings.home_paths, TEAM)
    write_secret(rotation.next_path(path), "rayplane-alpha.2\nnext-password\n")
    write_secret(rotation.former_path(path), "rayplane-alpha\n5\n600\n")
    teams.reconcile(team)
    world.store.mark_deleted(team.metadata.uid)
    assert teams.reconcile(world.get(team)) is None
    assert set(mlflow.users) == {"admin"}
    assert list(path.parent.iterdir()) == []
