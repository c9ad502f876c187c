"""Hooks by which stock Ray's `ray job submit` and `ray.init` accept the address ``rayplane://<team>/<cluster>``."""

from __future__ import annotations

import os
import platform
from typing import Any

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.client_builder import ClientBuilder as _RayClientBuilder
from ray.client_builder import ClientContext
from ray.dashboard.modules.dashboard_sdk import ClusterInfo

from rayplane import errors
from rayplane.client.sdk import Client
from rayplane.nouns.base import Object
from rayplane.nouns.cluster import ClusterStatus
from rayplane.nouns.environment import Environment

START_TIMEOUT = 600.0
"""Seconds that `ray.init` waits for a cluster to be ready."""

# Ray's client adds these to the metadata of every job, and admission compares them with the cluster's environment.
_VERSIONS = {"rayplane.ray": ray.__version__, "rayplane.python": platform.python_version()}


def get_job_submission_client_cluster_info(
    address: str,
    create_cluster_if_needed: bool = False,
    cookies: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
    **_: Any,
) -> ClusterInfo:
    """Tell Ray's Jobs client how to reach ``<team>/<cluster>``: at the gateway, with the user's token.

    Creates a missing cluster if Ray asks for that, as `ray job submit` does. It need not run: jobs wait for it.
    """
    team, name = split(address)
    with Client() as client:
        _ensure(client, team, name, create=create_cluster_if_needed)
        url, token = client.url, client.token
    return ClusterInfo(
        address=f"{url}/{team}/{name}",
        cookies=cookies,
        metadata={**_VERSIONS, **(metadata or {})},
        headers={"Authorization": f"Bearer {token}", **(headers or {})},
    )


class ClientBuilder(_RayClientBuilder):
    """Connects `ray.init("rayplane://<team>/<cluster>")`: creates the cluster if it is missing and waits for it."""

    def connect(self) -> ClientContext:
        """Block until the cluster is ready, then connect; raises Refused if it runs another Ray or Python."""
        team, name = split(self.address or "")
        with Client() as client:
            # Before a cluster is created: one that this process can't connect to would be of no use.
            require_match(_environment(client), f"The platform at {client.url}")
            _ensure(client, team, name, create=True)
            cluster = client.clusters.reach(team, name, timeout=START_TIMEOUT)
        self.address = _client_address(cluster)
        return super().connect()


def split(address: str) -> tuple[str, str]:
    """Split ``team/cluster`` into its two names; raises InvalidInput for anything else."""
    parts = address.strip("/").split("/")
    if len(parts) != 2 or not all(parts):
        raise errors.InvalidInput(
            f"'{address}' is not a cluster's address.", remedy="Write rayplane://<team>/<cluster>."
        )
    return parts[0], parts[1]


def require_match(environment: Environment | None, where: str) -> None:
    """Raise Refused unless this process has the cluster's Ray version and Python minor, as Ray Client requires."""
    if environment is None:
        return
    minor = ".".join(platform.python_version_tuple()[:2])
    if (environment.ray, environment.python) != (ray.__version__, minor):
        raise errors.Refused(
            f"{where} runs Ray {environment.ray} on Python {environment.python}, this process Ray {ray.__version__} on "
            f"Python {minor}.",
            remedy=f"Use an environment with ray=={environment.ray} and Python {environment.python}.",
        )


def _ensure(client: Client, team: str, name: str, *, create: bool) -> Object:
    try:
        return client.clusters.get(team, name)
    except errors.NotFound:
        if not create:
            raise
    return client.clusters.apply(team, name, {})


def _environment(client: Client) -> Environment | None:
    environment = client.info()["environment"]
    return None if environment is None else Environment.model_validate(environment)


def _client_address(cluster: Object) -> str:
    status = ClusterStatus.model_validate(cluster.status)
    where = f"Cluster '{cluster.metadata.team}/{cluster.metadata.name}'"
    require_match(status.environment, where)
    if status.endpoint is None or status.endpoint.client_address is None:
        raise errors.Unsupported(f"{where} takes no Ray Client connections.", remedy="Submit a job to it instead.")
    if status.endpoint.token_path:
        _use_token(status.endpoint.token_path)
    return status.endpoint.client_address.removeprefix("ray://")


def _use_token(path: str) -> None:
    # Ray has read its configuration at import: make it read the token mode and the token again.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = path
    os.environ.pop("RAY_AUTH_TOKEN", None)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
