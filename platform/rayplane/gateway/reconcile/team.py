"""Onboard a team (MLflow workspace, user and credentials) and take its access away when it goes."""

from __future__ import annotations

import secrets
from pathlib import Path

from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.reconcile.status import editing
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import Object
from rayplane.nouns.team import TeamStatus
from rayplane.settings import Home, read_secret, write_secret


def credentials_path(home: Home, team: str) -> Path:
    """The 0600 file with the team's MLflow user name and password, one a line. Workers are told its path."""
    return home.secrets / "teams" / f"{team}.mlflow"


def user_of(team: str) -> str:
    """The MLflow user that a team's jobs are."""
    return f"rayplane-{team}"


class TeamReconciler:
    """A team is Ready once its jobs can be tracked; without an MLflow server there is nothing to make."""

    kind = "Team"

    def __init__(self, platform: Platform, mlflow: MlflowRest | None) -> None:
        self._platform = platform
        self._mlflow = mlflow

    def reconcile(self, obj: Object) -> float | None:
        """Make workspace, user and role; each is made once and may be asked for again."""
        if obj.metadata.deleted_at is not None:
            self._remove(obj)
            return None
        team = obj.metadata.name
        if self._mlflow is not None:
            self._mlflow.ensure_workspace(team)
            self._mlflow.ensure_user(team, *self._credentials(team))
        with editing(self._platform.store, obj.metadata.uid, TeamStatus) as status:
            status.phase = "Ready"
            status.observed_generation = obj.metadata.generation
            status.mlflow_workspace = team if self._mlflow is not None else None
            status.feast_project = team
            message = "" if self._mlflow is not None else "No MLflow server is set: jobs are not tracked."
            status.set_condition("Ready", True, "Onboarded", message, obj.metadata.generation)
        return None

    def _credentials(self, team: str) -> tuple[str, str]:
        path = credentials_path(self._platform.settings.home_paths, team)
        if not path.exists():
            write_secret(path, f"{user_of(team)}\n{secrets.token_urlsafe(32)}\n")
        user, password = read_secret(path).splitlines()[:2]
        return user, password

    def _remove(self, obj: Object) -> None:
        # The workspace stays: runs and models are evidence. Access to it does not.
        if self._mlflow is not None:
            self._mlflow.delete_user(user_of(obj.metadata.name))
        credentials_path(self._platform.settings.home_paths, obj.metadata.name).unlink(missing_ok=True)
        self._platform.store.remove(obj.metadata.uid)
