"""What a team is to MLflow: a user, whose password is in a file that the gateway alone reads."""

from __future__ import annotations

import secrets
from pathlib import Path

from rayplane.settings import Home, read_secret, write_secret


def credentials_path(home: Home, team: str) -> Path:
    """The 0600 file with the team's MLflow user name and password, one a line. The backend hands them to workers."""
    return home.secrets / "teams" / f"{team}.mlflow"


def files_of(home: Home, team: str) -> list[Path]:
    """All files that name a user of the team, also beside that of the one in use. No team's name has a dot."""
    path = credentials_path(home, team)
    return sorted(path.parent.glob(f"{path.name}*"))


def user_in(path: Path) -> str:
    """The user that such a file names; empty if it has none. Raises InvalidInput where others may read it."""
    return next(iter(read_secret(path).splitlines()), "")


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
