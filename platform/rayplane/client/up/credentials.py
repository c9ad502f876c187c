"""The local platform's secrets: created once, each in a 0600 file of the home, never on a command line."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from rayplane import rotation
from rayplane.settings import Home, read_secret, write_secret

MLFLOW_ADMIN = "admin"


@dataclass(frozen=True)
class Credentials:
    """Paths of the secrets. Values that MLflow accepts only by environment variable are read on demand."""

    token: Path
    """The local user's token."""
    metrics: Path
    """Prometheus' token, which may only read metrics and discover targets."""
    mlflow_admin: Path
    """Two lines: user name, password."""
    mlflow_key: Path
    """MLflow's key for signing its web forms (Flask's secret key)."""

    def mlflow_password(self) -> str:
        """The MLflow admin's password."""
        return read_secret(self.mlflow_admin).splitlines()[1]

    def mlflow_signing_key(self) -> str:
        """MLflow's key for signing its web forms."""
        return read_secret(self.mlflow_key)


def of(home: Home) -> Credentials:
    """Paths of a home's secrets."""
    return Credentials(
        token=home.token,
        metrics=rotation.metrics_path(home),
        mlflow_admin=home.secrets / "mlflow-admin",
        mlflow_key=home.secrets / "mlflow-key",
    )


def ensure(home: Home) -> Credentials:
    """Create missing secrets, keep existing ones. Raises InvalidInput if other users may read a secret."""
    known = of(home)
    values = {
        known.token: secrets.token_urlsafe(32),
        known.metrics: secrets.token_urlsafe(32),
        known.mlflow_admin: f"{MLFLOW_ADMIN}\n{secrets.token_urlsafe(24)}",
        known.mlflow_key: secrets.token_urlsafe(32),
    }
    for path, value in values.items():
        if path.exists():
            read_secret(path)
        else:
            write_secret(path, value + "\n")
    return known
