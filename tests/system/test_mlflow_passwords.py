"""A real MLflow server: the reconcilers rotate its admin's password and a team's user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import processes, rotation
from rayplane.errors import Unauthenticated
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.reconcile.rotations import Rotations
from rayplane.gateway.reconcile.team import TeamReconciler, credentials_path
from rayplane.settings import read_secret, write_secret
from tests.support.local_platform import until
from tests.system.test_cluster_and_job import Platform
from tests.unit.gateway.reconcile.doubles import TEAM, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A running MLflow server, without a gateway."""
    made = Platform(tmp_path_factory.mktemp("mlflow"))
    made.start_mlflow()
    first = MlflowRest(made.mlflow_url, "admin", "password-of-the-admin")
    until(first.healthy, seconds=240, what="MLflow answers")
    first.close()
    yield made
    processes.stop_marked(made.home.id, grace=10)


def is_accepted(served: Platform, user: str, password: str) -> bool:
    client = MlflowRest(served.mlflow_url, user, password)
    try:
        client.require_admin()
    except Unauthenticated:
        return False
    finally:
        client.close()
    return True


def test_the_admin_and_a_teams_user_are_replaced_and_the_former_ones_refused(served: Platform, tmp_path: Path) -> None:
    world = World(tmp_path, mlflow_url=served.mlflow_url)
    world.team()
    path = tmp_path / "secrets" / "mlflow-admin"
    write_secret(path, "admin\npassword-of-the-admin\n")
    world.settings.mlflow_admin_path = path

    def admin() -> tuple[str, str]:
        user, password = read_secret(path).splitlines()
        return user, password

    mlflow, other_gateway = (MlflowRest(served.mlflow_url, *admin(), reread=admin) for _ in range(2))
    teams = TeamReconciler(world.platform, mlflow, lambda name: world.backend, clock=world.clock)
    team, team_path = world.store.get("Team", "", TEAM), credentials_path(world.settings.home_paths, TEAM)
    write_secret(team_path, "rayplane-alpha\nfirst-password-of-the-team\n")
    teams.reconcile(team)
    assert is_accepted(served, "rayplane-alpha", "first-password-of-the-team")

    write_secret(rotation.next_path(path), "admin\nanother-password-of-the-admin\n")
    Rotations.from_now(world.platform, mlflow).look()
    assert read_secret(path).splitlines() == ["admin", "another-password-of-the-admin"]
    assert not is_accepted(served, "admin", "password-of-the-admin")
    mlflow.require_admin()
    other_gateway.require_admin()  # it reads the file again after a refusal

    write_secret(rotation.next_path(team_path), "rayplane-alpha.2\nsecond-password-of-the-team\n")
    write_secret(rotation.former_path(team_path), "rayplane-alpha\n0\n60\n")
    teams.reconcile(team)
    assert is_accepted(served, "rayplane-alpha", "first-password-of-the-team")
    assert is_accepted(served, "rayplane-alpha.2", "second-password-of-the-team")
    world.clock.forward(61)
    teams.reconcile(team)
    assert not is_accepted(served, "rayplane-alpha", "first-password-of-the-team")
    assert is_accepted(served, "rayplane-alpha.2", "second-password-of-the-team")
    mlflow.close()
    other_gateway.close()
