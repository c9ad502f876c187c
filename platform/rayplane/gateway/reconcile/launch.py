"""Check what a team needs before its nodes start, and build what they start with: URLs, names, secrets as paths."""

from __future__ import annotations

from collections.abc import Callable

from rayplane import plugins
from rayplane.gateway.backends.base import Backend, Capability, LaunchContext
from rayplane.gateway.reconcile.team_credentials import credentials_path
from rayplane.gateway.store.typed import Team
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.team import Size
from rayplane.settings import GatewaySettings, read_secret


def environment(team: str, cluster: str | None, settings: GatewaySettings, *, workspace: str) -> dict[str, str]:
    """Environment variables of the head for its drivers and workers. ``cluster`` is None on a job's or a service's own
    nodes; ``workspace`` is the team's MLflow workspace. Pure."""
    env = {"RAYPLANE_GATEWAY_URL": settings.url, "RAYPLANE_TEAM": team}
    if cluster is not None:
        env["RAYPLANE_CLUSTER"] = cluster
    if settings.mlflow_url:
        env |= {
            "MLFLOW_TRACKING_URI": settings.mlflow_url,
            "MLFLOW_WORKSPACE": workspace,
            "MLFLOW_TRACKING_AUTH": plugins.MLFLOW_AUTH_PROVIDER,
            "RAY_TRAIN_CALLBACKS": plugins.TRAIN_CALLBACK,
        }
    return env


def team_lacks(platform: Platform, team: Team, backend_name: str, backend: Backend, wake: Callable[[str], None]) -> str:
    """The team's missing part without which nothing of it can start on the backend; empty if there is none.

    ``wake`` has the loop look at the team if it was not set up on this backend before.
    """
    settings, name = platform.settings, team.metadata.name
    onboarding = f"Team '{name}' is being onboarded."
    if settings.mlflow_url and not credentials_path(settings.home_paths, name).exists():
        return onboarding
    if Capability.TEAM not in backend.capabilities:
        return ""
    missing = team.status.places.get(backend_name)
    if missing is None:
        wake(team.metadata.uid)
        return onboarding
    return f"{onboarding} {missing}" if missing else ""


def context(platform: Platform, team: str, uid: str, size: Size, *, cluster: str | None = None) -> LaunchContext:
    """The launch context for the nodes of a cluster, a job or a service (``uid``)."""
    env = environment(team, cluster, platform.settings, workspace=platform.workspace(team))
    return LaunchContext(size=size, env=env, secrets=secrets(platform, team, uid))


def secrets(platform: Platform, team: str, uid: str) -> dict[str, str]:
    """The current secrets of a cluster, a job or a service (``uid``); they rotate while it runs."""
    settings = platform.settings
    texts = {"RAYPLANE_TOKEN_PATH": platform.signer.cluster_token(team, uid)}
    credentials = credentials_path(settings.home_paths, team)
    if settings.mlflow_url and credentials.exists():
        texts["RAYPLANE_MLFLOW_CREDENTIALS"] = read_secret(credentials)
    return texts
