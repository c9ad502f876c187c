"""Write the children's configuration files: Prometheus' scrape configuration and rules, MLflow's authentication."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from rayplane.errors import Unavailable
from rayplane.settings import Home

RULES = "rules.yml"
TEMPLATE = "prometheus.yml"


def prometheus_sources() -> Traversable:
    """The folder with Prometheus' template and rules: the installed wheel's, else the checkout's ``deploy/prometheus``.

    There is one source, ``deploy/prometheus``: the wheel carries a copy of it.
    """
    packaged = files("rayplane.client.up") / "prometheus"
    if packaged.joinpath(TEMPLATE).is_file():
        return packaged
    checkout = Path(__file__).parents[4] / "deploy" / "prometheus"
    if (checkout / TEMPLATE).is_file():
        return checkout
    raise Unavailable(
        "Prometheus' configuration is neither in the installed package nor in 'deploy/prometheus'.",
        remedy="Install rayplane anew.",
    )


def write_prometheus(home: Home, *, gateway_url: str, token: Path) -> Path:
    """Write the filled-in template and the rules to the home; return the configuration's path."""
    source = prometheus_sources()
    target = home.prometheus / TEMPLATE
    text = render_prometheus(source.joinpath(TEMPLATE).read_text(), gateway_url=gateway_url, token=token)
    _replace(home.prometheus / RULES, source.joinpath(RULES).read_text())
    _replace(target, text)
    return target


def render_prometheus(template: str, *, gateway_url: str, token: Path) -> str:
    """The template with its placeholders filled in. Pure."""
    # A path may contain any character; a JSON string is also a valid YAML string.
    return Template(template).substitute(gateway_url=gateway_url, token_file=json.dumps(str(token)))


def write_mlflow(home: Home) -> Path:
    """Write MLflow's authentication settings: a user table of its own, and only roles grant access. Has no secret.

    MLflow checks a user's password up to five times per request and computes its scrypt hash each time, 0.07 s of CPU,
    so the settings make it cache a correct password. Changes over MLflow's API take effect at once, since there is only
    one worker.
    """
    target = home.mlflow / "auth.ini"
    database = str(home.mlflow / "auth.db").replace("%", "%%")  # '%' starts an interpolation in an ini file
    _replace(
        target,
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{database}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "grant_default_workspace_access = false\n"
        "auth_cache_ttl_seconds = 60\n",
    )
    return target


def digest(*paths: Path) -> str:
    """A hash of files' contents, by which the supervisor notices that a child runs with an older configuration."""
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in paths)).hexdigest()[:16]


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
