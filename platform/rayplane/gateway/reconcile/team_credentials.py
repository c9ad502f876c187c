"""What a team is to MLflow: a user, whose password is in a file that the gateway alone reads."""

from __future__ import annotations

import secrets
from pathlib import Path

from rayplane.settings import Home, read_secret, write_secret


def credentials_path(home: Home, team: str) -> Path:
    """The 0600 file with the team's MLflow user name and password, one a line. The backend hands them to workers."""
    return home.secrets / "teams" / f"{team}.mlflow"


def user_of(workspace: str) -> str:
    """The MLflow user that a team's jobs are: as its workspace, one that no earlier team was."""
    return f"rayplane-{workspace}"


def credentials(home: Home, team: str, workspace: str) -> tuple[str, str]:
    """(user, password) of a team, made if they are not there."""
    path = credentials_path(home, team)
    if not path.exists():
        write_secret(path, f"{user_of(workspace)}\n{secrets.token_urlsafe(32)}\n")
    user, password = read_secret(path).splitlines()[:2]
    return user, password
