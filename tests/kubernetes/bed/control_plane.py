"""A control plane as processes of this host: started, stopped one by one, taken down whole.

It is what both levels share: etcd, API server, controllers, scheduler, the KubeRay operator as its own service account.
Which nodes there are, and who plays the kubelet, is the levels' own.
"""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from rayplane import processes
from rayplane.errors import Unavailable
from tests.kubernetes.bed import certificates, components
from tests.kubernetes.bed.access import Access, kubeconfig_of
from tests.kubernetes.bed.api import Object, tls, wait_for
from tests.kubernetes.bed.components import Component, Ports

OPERATOR_NAMESPACE = "kuberay"
OPERATOR = "kuberay-operator"

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}

Say = Callable[[str], None]


class ControlPlane(Access):
    """A running control plane. ``kubeconfig`` is an admin's; ``api`` a client with it."""

    def __init__(self, folder: Path, tools: dict[str, Path], *, address: str, say: Say) -> None:
        """Prepare it in an empty folder. ``address`` is where the API server listens."""
        super().__init__(folder / "admin.kubeconfig", folder)
        self.tools = tools
        self.address = address
        self.say = say
        self.keys = folder / "keys"
        self.ports = Ports(*_free_ports(8))
        self.server = f"https://{address}:{self.ports.api}"
        self.mark = f"bed-{secrets.token_hex(4)}"
        self.audit_log = folder / "audit.log"
        self.records = folder / "processes"
        self.authority = certificates.Authority(self.keys)
        self._components: dict[str, Component] = {}

    def make_keys(self) -> None:
        """The API server's certificate and the kubeconfigs of the control plane."""
        authority = self.authority
        certificates.service_account_key(self.keys)
        first_service = components.SERVICES.rpartition(".")[0] + ".1"
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        hosts = [*names, "localhost", "127.0.0.1", first_service, self.address]
        authority.issue("api-server", user="kube-apiserver", hosts=list(dict.fromkeys(hosts)))
        authority.issue("kubelet-client", user="kube-apiserver-kubelet-client", groups=["system:masters"])
        self.kubeconfig_of_user(authority, self.kubeconfig, "rayplane-admin", "system:masters")
        self.kubeconfig_of_user(authority, self.keys / "controllers.kubeconfig", "system:kube-controller-manager")
        self.kubeconfig_of_user(authority, self.keys / "scheduler.kubeconfig", "system:kube-scheduler")

    def kubeconfig_of_user(self, authority: certificates.Authority, path: Path, user: str, *groups: str) -> Path:
        """A kubeconfig with a certificate for a user."""
        pair = authority.issue(path.stem, user=user, groups=groups)
        return kubeconfig_of(path, server=self.server, authority=authority.certificate, certificate=pair)

    def start_api(self, *, real_nodes: bool, audit: bool) -> None:
        """etcd and the API server; returns once it is ready."""
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        self.add(components.etcd(self.tools["etcd"], self.folder, self.ports))
        self.add(
            components.api_server(
                self.tools["kube-apiserver"],
                self.keys,
                self.ports,
                address=self.address,
                real_nodes=real_nodes,
                audit=(policy, self.audit_log) if audit else None,
            )
        )
        # The API server waits for etcd by itself, and its own start takes longest.
        self.launch("etcd")
        self.launch("kube-apiserver")
        self._wait("etcd")
        self._wait("kube-apiserver")

    def start_controllers(self, *, real_nodes: bool) -> None:
        """The controllers and the scheduler; returns at once."""
        program = self.tools["kube-controller-manager"]
        self.add(components.controller_manager(program, self.keys, self.ports, real_nodes=real_nodes))
        self.add(components.scheduler(self.tools["kube-scheduler"], self.keys, self.ports))
        self.launch("kube-controller-manager")
        self.launch("kube-scheduler")

    def install_kuberay(self) -> None:
        """KubeRay's CRDs, and the role that its operator has; returns once the CRDs are established."""
        crds = [self.api.create(_manifest(path)) for path in sorted(self.tools["crds"].glob("*.yaml"))]
        role = _manifest(self.tools["rbac"] / "role.yaml")
        account = {"name": OPERATOR, "namespace": OPERATOR_NAMESPACE}
        for manifest in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
            role,
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": OPERATOR},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": role["metadata"]["name"],
                },
                "subjects": [{"kind": "ServiceAccount", **account}],
            },
        ):
            self.api.apply(manifest)
        kinds = {crd["spec"]["names"]["kind"] for crd in crds}
        # The server tells of a kind once it is established, and in fewer words than the CRD itself has.
        wait_for("KubeRay's kinds established", lambda: kinds <= self.api.kinds("ray.io/v1"), seconds=60.0)

    def start_operator(self, *, prefix: list[str] | None = None) -> None:
        """The KubeRay operator; returns at once."""
        config = self.kubeconfig_for(OPERATOR, OPERATOR_NAMESPACE)
        self.add(components.operator(self.tools["ray-operator"], config, self.ports, prefix=prefix or []))
        self.launch("ray-operator")

    def start(self, name: str) -> None:
        """Start a component that was stopped; returns once it is healthy."""
        self.launch(name)
        self._wait(name)

    def stop(self, name: str, *, grace: float | None = None) -> None:
        """Stop a component; one that is down is success. ``grace`` is in seconds; 0 kills it."""
        record = processes.load(name, self.records)
        if record is not None:
            processes.stop(record, grace=self._components[name].grace if grace is None else grace)
            processes.forget(name, self.records)

    def restart(self, name: str) -> None:
        """Stop and start a component."""
        self.stop(name)
        self.start(name)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Stop a component for the time of the block, and start it again whatever happens."""
        self.stop(name)
        try:
            yield
        finally:
            self.start(name)

    def running(self, name: str) -> bool:
        """True if a component's process is alive."""
        record = processes.load(name, self.records)
        return record is not None and processes.alive(record)

    def pid(self, name: str) -> int | None:
        """Process of a component, if it is up: to measure its memory and CPU time."""
        record = processes.load(name, self.records)
        return record.pid if record is not None else None

    def log(self, name: str) -> Path:
        """A component's output so far."""
        return self.folder / "logs" / f"{name}.log"

    def expire_watches(self) -> None:
        """Make every resource version so far too old: a watch that resumes from one gets HTTP status 410."""
        # Write a key of our own, so that no object changes and its newest revision can be compacted.
        key = base64.b64encode(b"/rayplane-test-bed").decode()
        with httpx.Client(base_url=f"http://127.0.0.1:{self.ports.etcd}/v3/kv", timeout=30.0, trust_env=False) as etcd:
            written = etcd.post("/put", json={"key": key, "value": key}).raise_for_status().json()
            revision = written["header"]["revision"]
            etcd.post("/compaction", json={"revision": revision, "physical": True}).raise_for_status()
        # The API server's cache has more history than etcd.
        self.restart("kube-apiserver")

    def add(self, component: Component) -> None:
        """Register a component, so that ``start`` can start it."""
        self._components[component.name] = component

    def wait(self, *names: str) -> None:
        """Return once the components are healthy."""
        for name in names:
            self._wait(name)

    def close(self) -> None:
        """Stop every process and remove the folder. Raises Unavailable if a process does not end."""
        super().close()
        with ExitStack() as last:
            last.callback(shutil.rmtree, self.folder, ignore_errors=True)
            # Stop the API server's watchers before it, or it waits for them.
            for name in reversed(list(self._components)):
                self.stop(name, grace=2.0)
            processes.stop_marked(self.mark, grace=2.0)

    def left_over(self) -> list[str]:
        """Readable list of what is left of it: empty once it is closed."""
        left = [f"process {pid}" for pid in processes.marked(self.mark)]
        return left + ([f"folder {self.folder}"] if self.folder.exists() else [])

    def launch(self, name: str) -> None:
        """Start a component; returns at once."""
        component = self._components[name]
        processes.start(
            name,
            [*component.prefix, *component.argv],
            mark=f"{self.mark}/{name}",
            log=self.log(name),
            records=self.records,
            env={**_environment(), **_ROOMY, **component.env},
        )

    def _wait(self, name: str) -> None:
        component = self._components[name]
        began = time.monotonic()
        with httpx.Client(verify=self._trust(component), timeout=5.0, trust_env=False) as client:
            while not _well(client, component.health):
                if not self.running(name):
                    raise Unavailable(f"{name} ended while it started.", remedy=f"Its log ends: {self._tail(name)}")
                if time.monotonic() - began > component.seconds:
                    raise Unavailable(
                        f"{name} is not well after {component.seconds:.0f} s.",
                        remedy=f"Its log ends: {self._tail(name)}",
                    )
                time.sleep(0.05)
        self.say(f"{name} is well")

    def _trust(self, component: Component) -> Any:
        # Controllers and scheduler make their own certificates, which only their health check uses.
        if component.name != "kube-apiserver":
            return False
        return tls(
            certificate_authority=self.keys / "ca.crt", certificate=(self.keys / "admin.crt", self.keys / "admin.key")
        )

    def _tail(self, name: str) -> str:
        path = self.log(name)
        return path.read_text(errors="replace")[-2000:] if path.exists() else "(no log)"


def _free_ports(count: int) -> list[int]:
    """Ports that no connection takes by chance: a component that is down for a while needs its own again."""
    offered = random.sample(range(20_000, 32_000), 500)
    free_ports = [port for port in offered if processes.is_free(port)][:count]
    if len(free_ports) < count:
        raise Unavailable("This host has no free ports for a test bed.", remedy="See what listens: ss -ltn")
    return free_ports


def _manifest(path: Path) -> Object:
    # The CRDs have 70,000 lines, for which the loader in Python takes half a minute; this one is as safe.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    manifest: Object = yaml.load(path.read_text(), Loader=loader)
    return manifest


def _well(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.TransportError:
        return False


_ROOMY = {"GOGC": "400"}
"""Go's programs collect garbage a quarter as often: memory is what a bed has, cores are what it lacks."""


def _environment() -> dict[str, str]:
    """This process's environment, without variables that would connect a component elsewhere."""
    dropped = (
        "KUBECONFIG",
        "KUBERNETES_SERVICE_HOST",
        "KUBERNETES_SERVICE_PORT",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
    )
    return {name: value for name, value in os.environ.items() if name not in dropped}
