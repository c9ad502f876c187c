"""MLflow request-auth plug-in: the team's identity from a 0600 file. MLFLOW_TRACKING_AUTH=rayplane selects it."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider
from requests import PreparedRequest
from requests.auth import AuthBase, HTTPBasicAuth

CREDENTIALS = "RAYPLANE_MLFLOW_CREDENTIALS"
"""Environment variable with the path of the file: user name and password, one a line."""


class TeamIdentity(RequestAuthProvider):
    """Authenticate as the team's MLflow user, with HTTP Basic."""

    def get_name(self) -> str:
        return "rayplane"

    def get_auth(self) -> AuthBase:
        path = os.environ.get(CREDENTIALS)
        if not path:
            raise MlflowException(
                f"{CREDENTIALS} is not set, so MLflow can't be told who asks. Run this as a job of rayplane, or unset "
                "MLFLOW_TRACKING_AUTH."
            )
        return _BasicFromFile(Path(path))


class _BasicFromFile(AuthBase):
    """Basic authentication that reads the file at every request, so that a changed password takes effect at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        signed: PreparedRequest = HTTPBasicAuth(*self._read())(request)
        return signed

    def _read(self) -> tuple[str, str]:
        try:
            stat = self._path.stat()
            lines = self._path.read_text().splitlines()
        except OSError as exc:
            raise MlflowException(f"MLflow credentials '{self._path}' can't be read: {exc.strerror}.") from exc
        # A Secret that Kubernetes mounts belongs to root, and its pod reads it as a member of the group.
        if stat.st_mode & (0o077 if stat.st_uid == os.geteuid() else 0o007):
            raise MlflowException(
                f"MLflow credentials '{self._path}' may be read by others. Run: chmod 600 {self._path}"
            )
        if len(lines) < 2 or not lines[0] or not lines[1]:
            raise MlflowException(f"MLflow credentials '{self._path}' need two lines: user name, password.")
        return lines[0], lines[1]
