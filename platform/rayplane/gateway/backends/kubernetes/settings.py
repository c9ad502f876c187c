"""Settings of the Kubernetes backend: RAYPLANE_KUBERNETES_*."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rayplane.errors import InvalidInput

PREFIX = "RAYPLANE_KUBERNETES_"
TEAM = "{team}"
"""Placeholder for a team's name in ``storage_volume``."""


class KubernetesSettings(BaseSettings):
    """One Kubernetes cluster, and the image of Ray's pods on it. Settings hold no secrets, but paths of their files."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    kubeconfig: Path | None = None
    """Path of a kubeconfig, of which the current context is used; without it the pod's own service account."""
    namespace_prefix: str = Field(default="rayplane-", pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?-$", max_length=20)
    """Prefix of a team's namespace, before its name."""
    gateway_namespace: str = "rayplane"
    """Namespace of the gateway: its pods may reach the clusters' ports."""
    gateway_service_account: str = "rayplane-gateway"
    """The gateway's service account in ``gateway_namespace``; each team's namespace binds it to its role there."""
    monitoring_namespace: str | None = None
    """Namespace of Prometheus, if it is another: its pods may reach the clusters' metrics."""

    operator_namespace: str = "kuberay-operator"
    """Namespace of the KubeRay operator, which follows jobs and services through the clusters' dashboards."""
    ingress_namespace: str | None = None
    """Namespace of the serving ingress: its pods may reach the clusters' models."""

    image: str = "rayplane/ray:2.60.0"
    """Image of head and workers, best by digest (``name@sha256:...``). It contains Ray and the wheel of rayplane."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Policy by which a node pulls the image."""
    image_pull_secret: str | None = None
    """Name of a Secret in each team's namespace with the registry's credentials."""
    ray_version: str = Field(default="2.60.0", pattern=r"^\d+\.\d+\.\d+$")
    """Ray's version in the image. KubeRay's token authentication needs 2.52 or later."""
    python_version: str = Field(default="3.11", pattern=r"^3\.\d+$")
    """Python's minor version in the image."""
    lock_hash: str = "unknown"
    """SHA-256 (hex) of the lock that the image was made from."""
    run_as_user: int = Field(default=1000, ge=1)
    """User and group id of everything in a cluster's pods; never root."""

    autoscaler_cpu: float = Field(default=0.25, gt=0)
    """Cores of the autoscaler, a container in the head's pod of an autoscaled cluster."""
    autoscaler_memory: int = Field(default=512 * 2**20, gt=0)
    """Bytes of memory of that autoscaler."""
    worker_idle_seconds: int = Field(default=60, ge=0)
    """Seconds without work after which the autoscaler removes a worker."""
    termination_seconds: int = Field(default=10, ge=1, le=3600)
    """Seconds that a pod has to finish requests when it is deleted. Neither Ray nor its autoscaler ends at SIGTERM as a
    container's first process, so every deletion of a pod takes this long."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that clusters may run on, as JSON."""
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    """Taints that clusters' pods tolerate, as JSON."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of the resource for GPUs."""

    storage_claim: str = "rayplane-storage"
    """Name of the PersistentVolumeClaim in a team's namespace for the storage root, if that is on a file system."""
    storage_volume: dict[str, Any] | None = None
    """The volume that holds the storage root, as JSON of a PersistentVolume's source: ``{"nfs": {...}}``. Each team
    gets a volume and a claim made from it; without it an admin makes the claim in every team's namespace. Best name the
    team's own folder with ``{team}``: else a team's volume is the whole root, and its pods mount their part of it."""

    redis_address: str | None = None
    """``host:port`` of a Redis that keeps a head's tables, so that workers outlive the head."""
    redis_password_path: Path | None = None
    """0600 file with the password of that Redis."""

    egress: list[str] = Field(default_factory=lambda: ["0.0.0.0/0"])
    """CIDRs outside that clusters may reach (stores, registries, MLflow), as JSON; an empty list allows none."""
    egress_except: list[str] = Field(
        default_factory=lambda: ["169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32"]
    )
    """CIDRs cut out of ``egress``; by default the clouds' metadata addresses, which hand out a node's identity. Add a
    file server with the storage root: the nodes mount it, pods need no access to it."""
    api_server: list[str] = Field(default_factory=list)
    """CIDRs of the API server, for the autoscalers in the heads' pods; needed if ``egress`` does not include it."""
    dns_namespace: str = "kube-system"
    """Namespace of the Kubernetes cluster's DNS."""
    dns_addresses: list[str] = Field(default_factory=lambda: ["169.254.20.10/32"])
    """CIDRs of a DNS on the nodes themselves; by default the address of NodeLocal DNSCache."""
    dns_ports: list[int] = Field(default_factory=lambda: [53])
    """Ports of the DNS pods, as JSON; OpenShift's listen on 5353."""

    serve_url: str = "http://{service}.{namespace}.svc:8000"
    """URL of a service with nodes of its own: that of its Kubernetes Service, or of an ingress before it."""

    user_prefix: str = ""
    """Prefix that Kubernetes puts before the name of a team's member (the API server's --oidc-username-prefix)."""

    watch_patience: float = Field(default=15.0, gt=0)
    """Seconds for which the backend relies on cached objects while it can't watch the API server."""
    request_timeout: float = Field(default=10.0, gt=0)
    """Seconds that one request may take."""

    @property
    def has_a_volume_for_each_team(self) -> bool:
        """True if a team's volume is its own folder, and not the whole storage root."""
        return self.storage_volume is not None and TEAM in json.dumps(self.storage_volume)

    def volume_of(self, team: str) -> dict[str, Any]:
        """The source of a team's PersistentVolume."""
        filled = json.dumps(self.storage_volume or {}).replace(TEAM, team)
        source: dict[str, Any] = json.loads(filled)
        return source

    @model_validator(mode="after")
    def _redis_password_needs_redis(self) -> KubernetesSettings:
        if self.redis_password_path is not None and self.redis_address is None:
            raise ValueError("redis_password_path is set, but redis_address is not")
        return self

    def namespace(self, team: str) -> str:
        """The namespace of a team."""
        return f"{self.namespace_prefix}{team}"


def load() -> KubernetesSettings:
    """The settings of the environment; raises InvalidInput naming each wrong variable."""
    try:
        return KubernetesSettings()
    except ValidationError as exc:
        wrong = "; ".join(f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in exc.errors())
        raise InvalidInput(f"Settings are wrong: {wrong}.", remedy="Mend these environment variables.") from exc
