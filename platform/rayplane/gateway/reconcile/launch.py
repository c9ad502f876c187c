"""What the platform puts into the nodes that it asks for: URLs, names, and secrets as paths. One for all who ask."""

from __future__ import annotations

from rayplane import plugins
from rayplane.gateway.backends.base import LaunchContext
from rayplane.gateway.reconcile.team import credentials_path
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.team import Size
from rayplane.settings import GatewaySettings, read_secret


def environment(team: str, cluster: str | None, settings: GatewaySettings) -> dict[str, str]:
    """What the head's environment tells drivers and workers. ``cluster`` is None on nodes of a job's or a service's
    own. Pure."""
    env = {"RAYPLANE_GATEWAY_URL": settings.url, "RAYPLANE_TEAM": team}
    if cluster is not None:
        env["RAYPLANE_CLUSTER"] = cluster
    if settings.mlflow_url:
        env |= {
            "MLFLOW_TRACKING_URI": settings.mlflow_url,
            "MLFLOW_WORKSPACE": team,
            "MLFLOW_TRACKING_AUTH": plugins.MLFLOW_AUTH_PROVIDER,
            "RAY_TRAIN_CALLBACKS": plugins.TRAIN_CALLBACK,
        }
    return env


def context(platform: Platform, team: str, uid: str, size: Size, *, cluster: str | None = None) -> LaunchContext:
    """What the nodes of a cluster, a job or a service (``uid``) are started with."""
    settings = platform.settings
    secrets = {"RAYPLANE_TOKEN_PATH": platform.signer.cluster_token(team, uid)}
    credentials = credentials_path(settings.home_paths, team)
    if settings.mlflow_url and credentials.exists():
        secrets["RAYPLANE_MLFLOW_CREDENTIALS"] = read_secret(credentials)
    return LaunchContext(size=size, env=environment(team, cluster, settings), secrets=secrets)
