"""The command lines of the control plane's components, and their health checks. Pure: starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SERVICES = "10.97.0.0/16"
"""Addresses of Services."""
FAKE_PODS = "10.98.0.0/16"
"""Addresses that kwok gives to pods of fake nodes; nothing listens there."""


@dataclass(frozen=True)
class Component:
    """One process of the bed."""

    name: str
    argv: list[str]
    health: str
    """URL that answers 2xx once it is healthy."""
    seconds: float = 60.0
    """Seconds that its start may take, on a busy machine."""
    grace: float = 5.0
    """Seconds that it has to end by itself after SIGTERM."""
    prefix: list[str] = field(default_factory=list)
    """Command that starts it, such as nsenter."""
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ports:
    """Ports of the bed, all of ``address`` or of the loopback."""

    etcd: int
    etcd_peer: int
    api: int
    controllers: int
    scheduler: int
    operator: int
    operator_metrics: int
    kwok: int


def etcd(program: Path, folder: Path, ports: Ports) -> Component:
    """The store. It need not survive the machine, so it does not wait for the disk."""
    client, peer = f"http://127.0.0.1:{ports.etcd}", f"http://127.0.0.1:{ports.etcd_peer}"
    argv = [
        str(program),
        "--name=bed",
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=bed={peer}",
        "--unsafe-no-fsync",
        "--quota-backend-bytes=4294967296",
    ]
    return Component("etcd", argv, f"{client}/health", grace=1.0)


def api_server(
    program: Path, keys: Path, ports: Ports, *, address: str, real_nodes: bool, audit: tuple[Path, Path] | None
) -> Component:
    """The API server, as a cluster's: RBAC, the default admission plug-ins (Pod Security, quota, limits)."""
    argv = [
        str(program),
        f"--etcd-servers=http://127.0.0.1:{ports.etcd}",
        f"--bind-address={address}",
        f"--secure-port={ports.api}",
        f"--advertise-address={address if real_nodes else '192.0.2.1'}",
        # Pods can't use the loopback address: without other addresses none is published.
        f"--endpoint-reconciler-type={'lease' if real_nodes else 'none'}",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--anonymous-auth=false",
        # Pod Security must refuse pods, not a flag.
        "--allow-privileged=true",
        f"--client-ca-file={keys}/ca.crt",
        f"--tls-cert-file={keys}/api-server.crt",
        f"--tls-private-key-file={keys}/api-server.key",
        f"--kubelet-client-certificate={keys}/kubelet-client.crt",
        f"--kubelet-client-key={keys}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={keys}/service-accounts.key",
        f"--service-account-signing-key-file={keys}/service-accounts.key",
        "--shutdown-delay-duration=0s",
    ]
    if audit is not None:
        argv += [f"--audit-policy-file={audit[0]}", f"--audit-log-path={audit[1]}", "--audit-log-maxsize=2000"]
    return Component("kube-apiserver", argv, f"https://{address}:{ports.api}/readyz", seconds=120.0)


def controller_manager(program: Path, keys: Path, ports: Ports, *, real_nodes: bool) -> Component:
    """The controllers of Kubernetes: garbage collection, quota, endpoints, jobs, namespaces, tokens."""
    argv = [
        str(program),
        f"--kubeconfig={keys}/controllers.kubeconfig",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports.controllers}",
        f"--cert-dir={keys}/controllers",
        f"--authentication-kubeconfig={keys}/controllers.kubeconfig",
        f"--authorization-kubeconfig={keys}/controllers.kubeconfig",
        f"--root-ca-file={keys}/ca.crt",
        f"--service-account-private-key-file={keys}/service-accounts.key",
        "--use-service-account-credentials=true",
        # Fake nodes send no heartbeats: they exist until they are removed.
        *([] if real_nodes else ["--node-monitor-grace-period=24h"]),
        "--kube-api-qps=300",
        "--kube-api-burst=600",
    ]
    return Component("kube-controller-manager", argv, f"https://127.0.0.1:{ports.controllers}/healthz")


def scheduler(program: Path, keys: Path, ports: Ports) -> Component:
    """The scheduler."""
    argv = [
        str(program),
        f"--kubeconfig={keys}/scheduler.kubeconfig",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports.scheduler}",
        f"--cert-dir={keys}/scheduler",
        f"--authentication-kubeconfig={keys}/scheduler.kubeconfig",
        f"--authorization-kubeconfig={keys}/scheduler.kubeconfig",
        "--kube-api-qps=300",
        "--kube-api-burst=600",
    ]
    return Component("kube-scheduler", argv, f"https://127.0.0.1:{ports.scheduler}/healthz")


def operator(program: Path, kubeconfig: Path, ports: Ports, *, prefix: list[str]) -> Component:
    """The KubeRay operator, as its own service account."""
    argv = [
        str(program),
        f"--health-probe-bind-address=127.0.0.1:{ports.operator}",
        f"--metrics-addr=127.0.0.1:{ports.operator_metrics}",
        "--log-stdout-encoder=console",
        "--enable-leader-election=false",
    ]
    return Component(
        "ray-operator",
        argv,
        f"http://127.0.0.1:{ports.operator}/readyz",
        prefix=prefix,
        env={"KUBECONFIG": str(kubeconfig)},
    )


def kwok(program: Path, kubeconfig: Path, stages: Path, ports: Ports) -> Component:
    """kwok, which acts as the kubelet of the fake nodes."""
    argv = [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--config={stages}",
        "--manage-nodes-with-label-selector=rayplane.test/node=fake",
        f"--cidr={FAKE_PODS}",
        "--node-ip=192.0.2.1",
        # With leases, a restarted process would wait for those of the killed one to expire.
        "--node-lease-duration-seconds=0",
        f"--server-address=127.0.0.1:{ports.kwok}",
    ]
    return Component("kwok", argv, f"http://127.0.0.1:{ports.kwok}/healthz")
