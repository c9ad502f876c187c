"""MLflow's own client with a team's identity, for tests."""

from __future__ import annotations

import os
from typing import Any

from tests.support.local_platform import LocalPlatform


def mlflow_client(platform: LocalPlatform, team: str) -> Any:
    """An MlflowClient of the team's workspace. MLflow's settings are process-wide: use one platform at a time."""
    import mlflow

    user, password = (platform.home.secrets / "teams" / f"{team}.mlflow").read_text().split()
    os.environ.update({"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password})
    mlflow.set_tracking_uri(platform.state.mlflow_url)
    mlflow.set_workspace(team)
    return mlflow.MlflowClient()
