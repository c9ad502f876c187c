"""Access to a cluster for a test, as its admin or as one of its service accounts. Starts nothing."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from tests.kubernetes.bed.api import Api

_TOKEN_SECONDS = 24 * 3600


class Access:
    """A cluster by the kubeconfig of its admin. Kubeconfigs of service accounts are written into ``folder``."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        """A client of the API server with every right."""
        if self._api is None:
            self._api = Api(self.kubeconfig)
        return self._api

    def close(self) -> None:
        """Close the connections of ``api``."""
        if self._api is not None:
            self._api.close()
            self._api = None

    def token_for(self, service_account: str, namespace: str) -> str:
        """A token of a service account, which must exist, by the TokenRequest API; good for a day."""
        answer = self.api.request(
            "POST",
            self.api.path("v1", "ServiceAccount", name=service_account, namespace=namespace) + "/token",
            json={"spec": {"expirationSeconds": _TOKEN_SECONDS}},
        )
        return str(answer["status"]["token"])

    def kubeconfig_for(self, service_account: str, namespace: str) -> Path:
        """A kubeconfig with a new token of a service account, which has the rights of its roles."""
        config = yaml.safe_load(self.kubeconfig.read_text())
        context = next(entry for entry in config["contexts"] if entry["name"] == config["current-context"])
        user = {"name": service_account, "user": {"token": self.token_for(service_account, namespace)}}
        config["users"] = [user]
        config["contexts"] = [
            {**context, "context": {**context["context"], "user": service_account, "namespace": namespace}}
        ]
        return write_private(self.folder / f"{namespace}-{service_account}.kubeconfig", yaml.safe_dump(config))


def kubeconfig_of(path: Path, *, server: str, authority: Path, certificate: tuple[Path, Path]) -> Path:
    """A kubeconfig for the holder of a certificate and its key."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bed",
        "clusters": [{"name": "bed", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [
            {"name": "bed", "user": {"client-certificate": str(certificate[0]), "client-key": str(certificate[1])}}
        ],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "bed", "namespace": "default"}}],
    }
    return write_private(path, yaml.safe_dump(config))


def write_private(path: Path, text: str) -> Path:
    """Write a file that its owner alone may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return path
