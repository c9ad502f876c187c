"""A team's deletion: the data that it leaves, kills of the gateway at any step, and a new team of the same name."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import Conflict, NotFound, Unavailable
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.backends.base import Capability
from rayplane.gateway.reconcile import launch, team_deletion
from rayplane.gateway.reconcile.team import TeamReconciler
from rayplane.gateway.reconcile.team_credentials import credentials_path
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import objects, records
from rayplane.gateway.usecases.cluster import usage
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import Lease
from rayplane.nouns.team import Data, Size, TeamStatus
from rayplane.settings import write_secret
from rayplane.storage import layout
from tests.unit.gateway.reconcile.doubles import TEAM, World

KEPT = "datasets/d/1/part-0.parquet"


class Killed(BaseException):
    """The gateway is killed here."""


class Wire:
    """Proxy whose calls are counted; one of them kills the gateway, before or after it is done."""

    def __init__(self, of: Any, trap: Trap) -> None:
        self._of = of
        self._trap = trap

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if name == "teams":  # the backend's port to the places of teams
            return Wire(value, self._trap)
        return self._trap.around(value) if callable(value) and not name.startswith("_") else value


class Trap:
    """Counter of calls that kills the gateway at a chosen one."""

    def __init__(self, at: int, *, after: bool) -> None:
        self._left = at
        self._after = after
        self.sprung = False

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            hit = self._left == 0
            self.sprung |= hit
            if hit and not self._after:
                raise Killed
            try:
                return act(*args, **kwargs)
            finally:
                if hit:
                    raise Killed

        return call


def made(world: World, name: str = TEAM) -> AnyObject:
    team, _, _ = objects.apply("Team", "", name, {}, labels={}, principal=SYSTEM, platform=world.platform)
    return team


def reconciler(world: World) -> TeamReconciler:
    return TeamReconciler(world.platform, world.mlflow, lambda name: world.backend)  # type: ignore[arg-type]


def populated(world: World) -> AnyObject:
    """A team with a place, a cluster's lease, a file, a placed token, a Feast project, and a workspace."""
    world.backend.capabilities |= {Capability.TEAM}
    team = made(world)
    reconciler(world).reconcile(world.get(team))
    storage, home = world.platform.storage, world.settings.home_paths
    storage.write(f"{layout.team(TEAM)}/{KEPT}", b"rows")
    storage.write(f"{layout.mlflow_workspace(TEAM)}/1/run/model", b"weights")
    world.store.put("Dataset", TEAM, "d", {}, owner="ada")
    lease = Lease(id="l", team=TEAM, cluster_uid="c", cluster="dev", cpu=1, memory=2, gpu=0, started_at=utcnow())
    world.store.open_lease(lease)
    world.store.close_lease("l", utcnow())
    write_secret(home.placed_token(TEAM, "theirs"), "token\nhttp://127.0.0.1:8265\n")
    write_secret(home.placed_token("alpha-2", "theirs"), "another team's\n")
    write_secret(home.secrets / "teams" / "alpha.mlflow.former", "rayplane-alpha.2\npassword\n")
    world.mlflow.ensure_user("alpha", "rayplane-alpha.2", "password")
    online = home.feast_online(TEAM)
    online.parent.mkdir(parents=True)
    online.write_bytes(b"")
    with sqlite3.connect(world.settings.registry_url.removeprefix("sqlite:///")) as registry:
        registry.execute("CREATE TABLE feature_views (feature_view_name TEXT, project_id TEXT)")
        registry.execute("INSERT INTO feature_views VALUES ('delays', 'alpha'), ('delays', 'beta')")
    registry.close()
    return team


def delete(world: World, data: Data | None = None) -> AnyObject:
    return objects.delete("Team", "", TEAM, principal=SYSTEM, platform=world.platform, data=data)[0]


def gone(world: World, team: AnyObject) -> bool:
    with pytest.raises(NotFound):
        world.get(team)
    return True


def files(world: World) -> list[str]:
    root = Path(world.platform.storage.local_path("") or "")
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def left(world: World, team: AnyObject) -> dict[str, Any]:
    """Collect everything that is left of a deleted team."""
    archived = f"{TEAM}~{team.metadata.uid}"
    with sqlite3.connect(world.settings.registry_url.removeprefix("sqlite:///")) as registry:
        views = [project for (project,) in registry.execute("SELECT project_id FROM feature_views")]
    registry.close()
    return {
        "files": files(world),
        "workspaces": sorted(world.mlflow.workspaces),
        "users": sorted(world.mlflow.users),
        "places": len(world.backend.places),
        "secrets": sorted(p.name for p in world.settings.home_paths.secrets.rglob("*.ray")),
        "credentials": [p.name for p in credentials_path(world.settings.home_paths, TEAM).parent.glob("*")],
        "online": world.settings.home_paths.feast_online(TEAM).exists(),
        "feast": views,
        "datasets": world.store.count("Dataset", archived, removed=True),
        "of the name": [world.store.count("Dataset", TEAM, removed=True), len(world.store.leases(TEAM))],
        "leases": len(world.store.leases(archived)),
        "audit": [entry["action"] for entry in world.store.audit_log(archived).items],
        "audit of the name": world.store.audit_log(TEAM).items,
    }


ALWAYS = {
    "users": [],
    "places": 0,
    "secrets": ["alpha-2.theirs.ray"],
    "credentials": [],
    "of the name": [0, 0],
    "leases": 1,
    "audit of the name": [],
}


def expected(team: AnyObject, data: Data) -> dict[str, Any]:
    if data == "purge":
        return ALWAYS | {
            "files": [],
            "workspaces": [],
            "online": False,
            "feast": ["beta"],
            "datasets": 0,
            "audit": ["purge", "delete", "apply"],
        }
    return ALWAYS | {
        "files": [f"_archive/alpha~{team.metadata.uid}/{KEPT}", "mlflow/workspaces/alpha/1/run/model"],
        "workspaces": ["alpha"],
        "online": True,
        "feast": ["alpha", "beta"],
        "datasets": 1,
        "audit": ["archive", "delete", "apply"],
    }


@pytest.mark.parametrize("data", ["archive", "purge"])
def test_a_deleted_team_leaves_an_archive_or_nothing_as_requested(tmp_path: Path, data: Data) -> None:
    world = World(tmp_path)
    team = populated(world)
    delete(world, data)
    assert reconciler(world).reconcile(world.get(team)) is None
    assert gone(world, team)
    assert left(world, team) == expected(team, data)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("data", ["archive", "purge"])
def test_a_deletion_killed_at_any_step_is_completed_with_the_same_result(
    tmp_path: Path, data: Data, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = 0
    while True:
        world = World(tmp_path / str(kills))
        team = populated(world)
        delete(world, data)
        trap = Trap(kills + 1, after=after)
        with monkeypatch.context() as patch, suppress(Killed):
            trapped(world, trap, patch).reconcile(world.get(team))
        if not trap.sprung:
            break
        kills += 1
        with suppress(NotFound):  # it was killed after the last step
            reconciler(world).reconcile(world.get(team))
        assert gone(world, team)
        assert left(world, team) == expected(team, data), f"killed at step {kills}"
        world.store.close()
    assert kills >= (9 if data == "purge" else 6)


def trapped(world: World, trap: Trap, patch: pytest.MonkeyPatch) -> TeamReconciler:
    """Make a reconciler whose calls to the store, MLflow and the backend go through the trap."""
    for name in ("file_away", "remove", "purge", "audit"):
        patch.setattr(world.store, name, trap.around(getattr(world.store, name)))
    forget = trap.around(team_deletion.feast_registry.forget_project)
    patch.setattr(team_deletion.feast_registry, "forget_project", forget)
    patch.setattr(Path, "unlink", trap.around(Path.unlink))
    platform = replace(world.platform, storage=Wire(world.platform.storage, trap))
    mlflow: Any = Wire(world.mlflow, trap)
    return TeamReconciler(platform, mlflow, lambda name: Wire(world.backend, trap))


def test_a_purge_waits_while_mlflow_does_not_answer_and_then_completes(tmp_path: Path) -> None:
    world = World(tmp_path)
    team = populated(world)
    delete(world, "purge")
    world.mlflow.down = True
    with pytest.raises(Unavailable):
        reconciler(world).reconcile(world.get(team))
    assert world.get(team).metadata.deleted_at is not None, "its name is not free"
    world.mlflow.down = False
    reconciler(world).reconcile(world.get(team))
    assert left(world, team) == expected(team, "purge")


@pytest.mark.parametrize("data", ["archive", "purge"])
def test_a_new_team_of_the_same_name_starts_empty(tmp_path: Path, data: Data) -> None:
    world = World(tmp_path)
    old = populated(world)
    password = world.mlflow.users["rayplane-alpha"][1]
    delete(world, data)
    reconciler(world).reconcile(world.get(old))
    new = made(world)
    reconciler(world).reconcile(world.get(new))
    status = TeamStatus.model_validate(world.status(new))
    assert status.mlflow_workspace not in (None, "alpha")
    assert status.feast_project == status.mlflow_workspace
    assert world.mlflow.workspaces[status.mlflow_workspace] == f"alpha~{new.metadata.uid}"
    ((user, (workspace, new_password)),) = world.mlflow.users.items()
    assert (user, workspace) == (f"rayplane-{status.mlflow_workspace}", status.mlflow_workspace)
    assert new_password != password
    context = launch.context(world.platform, TEAM, new.metadata.uid, Size(cpu=1, memory=1))
    assert context.env["MLFLOW_WORKSPACE"] == status.mlflow_workspace
    assert list(world.platform.storage.list(TEAM)) == []
    assert list(world.store.each("Dataset", TEAM)) == []
    assert [entry["action"] for entry in world.store.audit_log(TEAM).items] == ["apply"]


def test_an_admin_can_read_audit_log_leases_and_usage_under_the_archived_name(tmp_path: Path) -> None:
    world = World(tmp_path)
    team = populated(world)
    archived = delete(world).status_data["archived_as"]
    here: dict[str, Any] = {"principal": SYSTEM, "platform": world.platform}
    with pytest.raises(NotFound):
        usage(archived, since=None, until=None, **here)
    reconciler(world).reconcile(world.get(team))
    assert [lease.id for lease in records.leases(archived, **here).items] == ["l"]
    newest = records.audit(archived, **here).items[0]
    assert (newest["action"], newest["name"], newest["principal"]) == ("archive", TEAM, "rayplane")
    assert newest["detail"] == {
        "records": archived,
        "files": world.platform.storage.uri(f"_archive/{archived}"),
        "mlflow_workspace": "alpha",
        "feast_project": "alpha",
    }
    assert [entry.cluster for entry in usage(archived, since=None, until=None, **here)] == ["dev"]
    with pytest.raises(NotFound):
        usage(f"{TEAM}~{'0' * 32}", since=None, until=None, **here)


def test_files_written_by_a_process_that_survived_its_team_are_hidden_from_the_next_team(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = populated(world)
    delete(world)
    reconciler(world).reconcile(world.get(first))
    world.platform.storage.write(f"{TEAM}/packages/late.zip", b"late")
    world.store.put("Dataset", TEAM, "late", {}, owner="ada")
    world.store.audit("ada", "apply", kind="Dataset", team=TEAM, name="late")
    second = made(world)
    assert list(world.platform.storage.list(TEAM)) == []
    assert list(world.store.each("Dataset", TEAM)) == []
    assert [entry["name"] for entry in world.store.audit_log(TEAM).items] == [TEAM]
    assert world.store.audit_log(f"{TEAM}~{first.metadata.uid}").items[0]["name"] == "late"
    archive = f"_archive/{TEAM}~{first.metadata.uid}"
    assert world.platform.storage.read(f"{archive}.before-{second.metadata.uid}/packages/late.zip") == b"late"
    assert world.platform.storage.read(f"{archive}/{KEPT}") == b"rows"


def test_files_that_an_older_version_left_of_a_team_are_hidden_from_the_next_team(tmp_path: Path) -> None:
    world = World(tmp_path)
    old = made(world)
    world.store.mark_deleted(old.metadata.uid)
    world.platform.storage.write(f"{TEAM}/{KEPT}", b"rows")
    world.store.remove(old.metadata.uid)
    dry: dict[str, Any] = {"labels": {}, "principal": SYSTEM, "platform": world.platform, "dry_run": True}
    objects.apply("Team", "", TEAM, {}, **dry)
    assert world.platform.storage.exists(f"{TEAM}/{KEPT}"), "a dry run moves nothing"
    made(world)
    assert world.platform.storage.read(f"_archive/{TEAM}~{old.metadata.uid}/{KEPT}") == b"rows"
    assert not world.platform.storage.exists(TEAM)


def test_a_first_team_keeps_what_an_admin_put_there_before(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.platform.storage.write(f"{TEAM}/{KEPT}", b"rows")
    made(world)
    assert world.platform.storage.read(f"{TEAM}/{KEPT}") == b"rows"


def test_an_onboarded_team_keeps_its_workspace_whatever_owner_mlflow_records(tmp_path: Path) -> None:
    world = World(tmp_path)
    team, _ = world.store.put(
        "Team", "", TEAM, {}, owner="ada",
        status=TeamStatus(phase="Ready", observed_generation=1, mlflow_workspace=TEAM, feast_project=TEAM),
    )  # fmt: skip
    world.mlflow.workspaces[TEAM] = ""
    reconciler(world).reconcile(world.get(team))
    assert world.status(team)["mlflow_workspace"] == TEAM
    assert list(world.mlflow.workspaces) == [TEAM]


def test_a_workspace_of_a_team_unknown_to_the_store_is_not_used(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.mlflow.workspaces[TEAM] = "alpha of a store that was lost"
    team = made(world)
    reconciler(world).reconcile(world.get(team))
    chosen = world.status(team)["mlflow_workspace"]
    assert chosen.startswith("alpha-")
    assert world.mlflow.users == {f"rayplane-{chosen}": (chosen, world.mlflow.users[f"rayplane-{chosen}"][1])}
    reconciler(world).reconcile(world.get(team))
    assert world.status(team)["mlflow_workspace"] == chosen


def test_deletion_records_archive_or_purge_and_the_choice_can_not_be_changed(tmp_path: Path) -> None:
    world = World(tmp_path)
    team = populated(world)
    first = delete(world)
    assert (first.status_data["data"], first.status_data["archived_as"]) == ("archive", f"alpha~{team.metadata.uid}")
    assert delete(world).status_data == first.status_data
    assert delete(world, "archive").status_data == first.status_data
    with pytest.raises(Conflict, match="is being deleted with data: archive"):
        delete(world, "purge")
    newest = world.store.audit_log(TEAM).items[0]
    assert newest["detail"] == {"data": "archive", "archived_as": f"alpha~{team.metadata.uid}"}
    assert json.dumps(first.status_data)


def test_a_refused_deletion_records_no_choice_about_data(tmp_path: Path) -> None:
    world = World(tmp_path)
    team = populated(world)
    world.cluster()
    with pytest.raises(Conflict, match="still has Cluster 'dev'"):
        delete(world, "purge")
    assert world.status(team)["data"] is None
