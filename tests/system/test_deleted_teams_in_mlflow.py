"""A real MLflow server: data of a deleted team is out of reach for a new team of its name, by new or old password."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import processes
from rayplane.client.up import configuration
from rayplane.gateway.admission import tokens
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.reconcile.team import TeamReconciler
from rayplane.gateway.reconcile.team_credentials import credentials_path
from rayplane.gateway.store import Store
from rayplane.gateway.usecases import objects
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.team import Data, TeamStatus
from rayplane.settings import GatewaySettings, Home, read_secret
from rayplane.storage import layout
from rayplane.storage.root import open_root
from rayplane.testing.fakes import FakeBackend
from tests.support import mlflow_places, stores
from tests.support.local_platform import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ADMIN = ("admin", "password-of-the-admin")
MARK = "written-before-the-deletion"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with a running MLflow server, started as `rayplane up` does."""
    made = Home(tmp_path_factory.mktemp("mlflow"))
    port = processes.free_port()
    storage = f"file://{made.storage}"
    processes.start(
        "mlflow",
        [
            *(sys.executable, "-m", "rayplane.client.up.mlflow_server"),
            *("--host", "127.0.0.1", "--port", str(port), "--allowed-hosts", f"127.0.0.1:{port}", "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{made.mlflow}/mlflow.db", "--serve-artifacts"),
            *("--default-artifact-root", "mlflow-artifacts:/"),
            *("--artifacts-destination", f"{storage}/{layout.mlflow_artifacts()}"),
            *("--enable-workspaces", "--app-name", "basic-auth"),
        ],
        mark=f"{made.id}/mlflow",
        log=made.logs / "mlflow.log",
        records=made.processes,
        env={
            **os.environ,
            "MLFLOW_AUTH_CONFIG_PATH": str(configuration.write_mlflow(made)),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN[0],
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-for-this-test",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        port=port,
    )
    try:
        admin = MlflowRest(url(made), *ADMIN)
        until(admin.healthy, seconds=240, what="MLflow answers")
        admin.close()
        yield made
    finally:
        record = processes.load("mlflow", made.processes)
        assert record is not None
        processes.stop(record, grace=10)


def url(home: Home) -> str:
    record = processes.load("mlflow", home.processes)
    assert record is not None
    return f"http://127.0.0.1:{record.port}"


@pytest.fixture
def platform(home: Home, tmp_path: Path) -> Iterator[Platform]:
    settings = GatewaySettings(home=home.path, mlflow_url=url(home))
    store, backend = (
        Store(stores.migrate(f"sqlite:///{tmp_path / 'gateway.db'}")),
        FakeBackend(capabilities=frozenset()),
    )
    yield Platform(
        store=store,
        storage=open_root(settings.root_uri),
        settings=settings,
        readers=lambda _: backend,
        wake=lambda: None,
        signer=tokens.load(settings.home_paths),
    )
    store.close()


@pytest.fixture
def admin(home: Home) -> Iterator[MlflowRest]:
    made = MlflowRest(url(home), *ADMIN)
    yield made
    made.close()


def onboard(platform: Platform, admin: MlflowRest, name: str) -> tuple[TeamStatus, tuple[str, str]]:
    """Create a team; return (its status, its MLflow user and password)."""
    team, _, _ = objects.apply("Team", "", name, {}, labels={}, principal=SYSTEM, platform=platform)
    TeamReconciler(platform, admin, lambda name: FakeBackend(capabilities=frozenset())).reconcile(team)
    user, password = read_secret(credentials_path(platform.settings.home_paths, name)).split()
    return platform.store.get("Team", "", name).status, (user, password)


def work(home: Home, user: tuple[str, str], workspace: str) -> tuple[str, str]:
    """Write by MLflow's API what a job of the team would leave; return (run id, experiment id)."""
    with mlflow_places.client(url(home), user, workspace) as api:
        named = {"name": mlflow_places.EXPERIMENT}
        made = api.post("/api/2.0/mlflow/experiments/create", json=named).raise_for_status().json()
        experiment = made["experiment_id"]
        made = api.post("/api/2.0/mlflow/runs/create", json={"experiment_id": experiment}).raise_for_status().json()
        run = made["run"]
        run_id = str(run["info"]["run_id"])
        model, source = mlflow_places.MODEL, run["info"]["artifact_uri"]
        uploaded = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run_id}/artifacts/{mlflow_places.FILE}"
        api.put(uploaded, content=MARK.encode()).raise_for_status()
        for path, body in (
            ("runs/log-metric", {"run_id": run_id, "key": "loss", "value": 1, "timestamp": 1}),
            ("runs/log-parameter", {"run_id": run_id, "key": "depth", "value": "6"}),
            ("runs/set-tag", {"run_id": run_id, "key": "mark", "value": MARK}),
            ("registered-models/create", {"name": model, "tags": [{"key": "mark", "value": MARK}]}),
            ("model-versions/create", {"name": model, "source": source, "run_id": run_id}),
            ("registered-models/alias", {"name": model, "alias": mlflow_places.ALIAS, "version": "1"}),
        ):
            api.post(f"/api/2.0/mlflow/{path}", json=body).raise_for_status()
    return run_id, str(experiment)


@pytest.mark.parametrize("data", ["archive", "purge"])
def test_a_new_teams_password_reaches_nothing_of_the_old_team_and_the_old_password_nothing_at_all(
    home: Home, platform: Platform, admin: MlflowRest, data: Data
) -> None:
    name = f"{data}d"
    first, old = onboard(platform, admin, name)
    assert first.mlflow_workspace == name
    run_id, experiment_id = work(home, old, name)
    asked = mlflow_places.places(run_id, experiment_id)
    before = mlflow_places.found(url(home), old, name, asked)
    assert list(before) == asked, "the places are right"
    assert mlflow_places.listed(url(home), old, name) == {
        "experiments": [mlflow_places.EXPERIMENT],
        "runs": [run_id],
        "models": [mlflow_places.MODEL],
        "versions": [mlflow_places.MODEL],
        "workspaces": [name],
    }
    artifact = home.storage / layout.mlflow_workspace(name) / experiment_id / run_id / "artifacts" / mlflow_places.FILE
    assert artifact.read_text() == MARK

    gone, _ = objects.delete("Team", "", name, principal=SYSTEM, platform=platform, data=data)
    TeamReconciler(platform, admin, lambda name: FakeBackend(capabilities=frozenset())).reconcile(gone)
    assert artifact.exists() == (data == "archive")
    assert list(mlflow_places.found(url(home), ADMIN, name, asked)) == (asked if data == "archive" else [])
    assert mlflow_places.found(url(home), old, name, asked) == {}

    second, new = onboard(platform, admin, name)
    assert second.mlflow_workspace not in (None, name)
    for workspace in (str(second.mlflow_workspace), name, "default"):
        assert mlflow_places.found(url(home), new, workspace, asked) == {}, workspace
    empty = {"experiments": [], "runs": [], "models": [], "versions": []}
    assert mlflow_places.listed(url(home), new, str(second.mlflow_workspace)) == {
        **empty,
        "workspaces": [second.mlflow_workspace],
    }
    with mlflow_places.client(url(home), old, str(second.mlflow_workspace)) as theirs:
        assert theirs.get("/api/3.0/mlflow/workspaces").status_code == 401
    _, experiment = work(home, new, str(second.mlflow_workspace))
    assert int(experiment) > int(experiment_id), "no id comes back"
    assert mlflow_places.listed(url(home), new, str(second.mlflow_workspace))["models"] == [mlflow_places.MODEL]
    again = mlflow_places.found(url(home), ADMIN, name, asked)
    assert again == (before if data == "archive" else {}), "what is archived stays as it was"


def test_a_purge_of_a_workspace_that_is_gone_already_succeeds(platform: Platform, admin: MlflowRest) -> None:
    onboard(platform, admin, "fleeting")
    for _ in range(2):
        admin.delete_workspace("fleeting")
    gone, _ = objects.delete("Team", "", "fleeting", principal=SYSTEM, platform=platform, data="purge")
    TeamReconciler(platform, admin, lambda name: FakeBackend(capabilities=frozenset())).reconcile(gone)
    assert platform.store.count("Team") == 0


def test_a_workspace_that_another_platform_made_is_not_given_to_a_new_team(
    platform: Platform, admin: MlflowRest
) -> None:
    assert admin.ensure_workspace("taken", "of another store")
    status, _ = onboard(platform, admin, "taken")
    assert str(status.mlflow_workspace).startswith("taken-")
    assert not admin.ensure_workspace("taken", "another")
