"""Credentials of a team's MLflow user, in a file that only the gateway reads."""

from __future__ import annotations

import secrets
from pathlib import Path

from rayplane.settings import Home, read_secret, write_secret


def credentials_path(home: Home, team: str) -> Path:
    """The 0600 file with the team's MLflow user name and password, one per line. The backend hands them to workers."""
    return home.secrets / "teams" / f"{team}.mlflow"


def files_of(home: Home, team: str) -> list[Path]:
    """All files that name a user of the team: the current, next and former one. No team's name has a dot."""
    path = credentials_path(home, team)
    return sorted(path.parent.glob(f"{path.name}*"))


def user_in(path: Path) -> str:
    """The user that such a file names; empty if it names none. Raises InvalidInput if others may read it."""
    return next(iter(read_secret(path).splitlines()), "")


def user_of(workspace: str) -> str:
    """The first MLflow user of a team's jobs, named by its workspace, which no earlier team had."""
    return f"rayplane-{workspace}"


def credentials(home: Home, team: str, workspace: str) -> tuple[str, str]:
    """(user, password) of a team, made if there is none."""
    path = credentials_path(home, team)
    if not path.exists():
        write_secret(path, f"{user_of(workspace)}\n{secrets.token_urlsafe(32)}\n")
    user, password = read_secret(path).splitlines()[:2]
    return user, password
