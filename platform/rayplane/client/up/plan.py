"""Describe the local platform's children: command, environment, port, health check. Starts nothing."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rayplane.client.up import configuration, credentials
from rayplane.client.up.state import PlatformState
from rayplane.settings import GatewaySettings, Home
from rayplane.storage import layout

GATEWAY, MLFLOW, PROMETHEUS = "gateway", "mlflow", "prometheus"
SUPERVISOR = "supervisor"

PREFERRED_PORTS = {GATEWAY: 8470}

# Variables that a shell inside a job, or a user of another MLflow, may have set; not meant for these servers.
_FOREIGN = (
    *("MLFLOW_", "RAY_ADDRESS", "RAY_AUTH_", "RAY_JOB_", "RAY_TRAIN_CALLBACKS", "RAYPLANE_TOKEN_PATH"),
    *("RAYPLANE_GATEWAY_URL", "RAYPLANE_TEAM", "RAYPLANE_CLUSTER", "RAYPLANE_SUBMISSION_ID", "RAYPLANE_URL"),
)


@dataclass(frozen=True)
class Child:
    """One process that the supervisor keeps running."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    """Variables set in addition to the inherited environment; may have secrets."""
    port: int
    url: str
    health: str
    """URL that answers 200 when the child works."""
    log: Path
    cwd: Path
    listen: str | None = None
    """Address at which the supervisor opens the child's port; None if the child opens it by itself."""
    configuration: str = ""
    """Hash of the configuration files that the child reads at its start."""

    @property
    def fingerprint(self) -> str:
        """Hash that is equal for a running process and this child if nothing would change by a restart."""
        parts = (self.argv, sorted(self.env.items()), self.configuration, str(self.cwd))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def children(settings: GatewaySettings, state: PlatformState, *, prometheus: Path | None) -> list[Child]:
    """The children of a home, whose secrets and configuration files must exist already."""
    home = settings.home_paths
    made = [_gateway(settings, home, state), _mlflow(settings, home, state)]
    if prometheus is not None:
        made.append(_prometheus(prometheus, home, state))
    return made


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Every child's base environment: the caller's without foreign variables, with this interpreter first on PATH."""
    env = {k: v for k, v in environ.items() if not k.startswith(_FOREIGN)}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])
    env["PYTHONUNBUFFERED"] = "1"
    return env


def local_url(host: str, port: int) -> str:
    """The URL by which this host reaches a listener; loopback if it listens on all interfaces."""
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::', '') else host}:{port}"  # noqa: S104  compared, not bound


def _gateway(settings: GatewaySettings, home: Home, state: PlatformState) -> Child:
    port = state.ports[GATEWAY]
    env = {
        "RAYPLANE_HOME": str(home.path),
        "RAYPLANE_HOST": settings.host,
        "RAYPLANE_PORT": str(port),
        "RAYPLANE_PUBLIC_URL": state.gateway_url,
        "RAYPLANE_LOCAL_USERS": json.dumps(settings.local_users),
        "RAYPLANE_MLFLOW_URL": state.mlflow_url,
        "RAYPLANE_MLFLOW_ADMIN_PATH": str(credentials.of(home).mlflow_admin),
    }
    if state.prometheus_url is not None:
        env["RAYPLANE_PROMETHEUS_URL"] = state.prometheus_url
    return Child(
        name=GATEWAY,
        argv=(sys.executable, "-m", "rayplane.gateway"),
        env=env,
        port=port,
        url=state.gateway_url,
        health=f"{local_url(settings.host, port)}/healthz",
        log=home.logs / "gateway.log",
        cwd=home.path,
        listen=settings.host,
    )


def _mlflow(settings: GatewaySettings, home: Home, state: PlatformState) -> Child:
    port, secrets = state.ports[MLFLOW], credentials.of(home)
    hosts = ",".join(_hosts(settings, port))
    return Child(
        name=MLFLOW,
        argv=(
            *(sys.executable, "-m", "rayplane.client.up.mlflow_server"),
            # The gateway's address, since jobs must reach both servers. MLflow asks for a user name and password.
            *("--host", settings.host, "--port", str(port)),
            # Without this the API answers 403 to an unknown Host header, while /health says 200.
            *("--allowed-hosts", hosts),
            # One worker, and no job execution (by environment): one process instead of ten.
            *("--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{home.mlflow / 'mlflow.db'}"),
            *("--serve-artifacts", "--default-artifact-root", "mlflow-artifacts:/"),
            *("--artifacts-destination", f"{settings.root_uri.rstrip('/')}/{layout.mlflow_artifacts()}"),
            *("--enable-workspaces", "--app-name", "basic-auth"),
        ),
        env={
            "MLFLOW_AUTH_CONFIG_PATH": str(home.mlflow / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": credentials.MLFLOW_ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.mlflow_password(),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.mlflow_signing_key(),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # The same hosts again, for a part of MLflow that reads the variable at import.
            "MLFLOW_SERVER_ALLOWED_HOSTS": hosts,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
        port=port,
        url=state.mlflow_url,
        health=f"{local_url(settings.host, port)}/health",
        log=home.logs / "mlflow.log",
        cwd=home.mlflow,
        listen=settings.host,
        configuration=configuration.digest(home.mlflow / "auth.ini"),
    )


def _hosts(settings: GatewaySettings, port: int) -> list[str]:
    """Host headers that the MLflow server accepts."""
    names = ["127.0.0.1", "localhost", settings.host, urlsplit(settings.public_url or "").hostname]
    known = [f"{name}:{port}" for name in names if name] + [urlsplit(settings.mlflow_public_url or "").netloc]
    return list(dict.fromkeys(host for host in known if host))


def _prometheus(binary: Path, home: Home, state: PlatformState) -> Child:
    port, config = state.ports[PROMETHEUS], home.prometheus / configuration.TEMPLATE
    return Child(
        name=PROMETHEUS,
        argv=(
            str(binary),
            f"--config.file={config}",
            f"--storage.tsdb.path={home.prometheus / 'data'}",
            "--storage.tsdb.retention.time=7d",
            "--storage.tsdb.retention.size=512MB",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ),
        env={},
        port=port,
        url=f"http://127.0.0.1:{port}",
        health=f"http://127.0.0.1:{port}/-/ready",
        log=home.logs / "prometheus.log",
        cwd=home.prometheus,
        configuration=configuration.digest(config, home.prometheus / configuration.RULES),
    )
