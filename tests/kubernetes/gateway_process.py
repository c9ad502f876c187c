"""A gateway process that acts on a test bed as its own service account, and its use of CPU and memory."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from rayplane import processes
from rayplane.client.sdk import Client
from rayplane.settings import read_secret
from tests.kubernetes import gateway
from tests.kubernetes.bed.access import Access
from tests.kubernetes.bed.api import wait_for

USER = f"system:serviceaccount:{gateway.NAMESPACE}:{gateway.ACCOUNT}"
"""The gateway, as the API server's audit log names it."""

_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Gateway:
    """One gateway with a home of its own, which may be started and ended any number of times."""

    home: Path
    host: str
    port: int
    environment: Mapping[str, str]
    mark: str
    pid: int = field(default=0, init=False)

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://{self.host}:{self.port}"

    @property
    def database(self) -> str:
        """SQLAlchemy URL of its store."""
        return f"sqlite:///{self.home / 'gateway.db'}"

    def client(self) -> Client:
        """A client of the SDK with the rights of the home's user."""
        return Client(self.url, self.home / "token")

    def start(self) -> float:
        """Start it; the seconds until it was ready."""
        began = time.monotonic()
        record = processes.start(
            "gateway",
            [sys.executable, "-m", "rayplane.gateway"],
            mark=self.mark,
            log=self.home.with_name("gateway.log"),
            records=self.home.with_name("processes"),
            env={**os.environ, **self.environment},
        )
        self.pid = record.pid
        wait_for("the gateway ready", self._ready, seconds=120.0, every=0.05)
        return time.monotonic() - began

    def stop(self, *, kill: bool = False) -> None:
        """End it, by SIGKILL on request; one that has ended is success."""
        records = self.home.with_name("processes")
        record = processes.load("gateway", records)
        if record is not None:
            if kill and processes.alive(record):
                os.kill(record.pid, signal.SIGKILL)
            processes.stop(record, grace=0.0 if kill else 20.0)
            processes.forget("gateway", records)

    def cpu_seconds(self) -> float:
        """Seconds of CPU that it has used."""
        return cpu_seconds(self.pid)

    def memory(self) -> tuple[float, float]:
        """Resident memory in MB, now and at its peak."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        megabytes = {name: int(kb) / 1000 for name, kb in re.findall(r"^Vm(RSS|HWM):\s+(\d+) kB$", status, re.M)}
        return megabytes["RSS"], megabytes["HWM"]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of what it exports under a name with these labels."""
        token = read_secret(self.home / "token")
        answer = httpx.get(
            f"{self.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=30.0, trust_env=False
        )
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        samples = (_SAMPLE.match(line) for line in answer.raise_for_status().text.splitlines())
        return sum(
            float(sample[3])
            for sample in samples
            if sample is not None and sample[1] == name and all(label in (sample[2] or "") for label in wanted)
        )

    def calls(self) -> float:
        """Number of requests to Kubernetes' API server, by its own metric."""
        return self.metric("rayplane_kubernetes_api_calls_total")

    def looks(self) -> float:
        """Number of its looks at clusters since it started."""
        return self.metric("rayplane_reconcile_duration_seconds_count", kind="Cluster")

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5.0, trust_env=False).is_success
        except httpx.TransportError:
            return False


@contextmanager
def gateway_on(
    bed: Access, folder: Path, *, host: str = "127.0.0.1", image: str = "example/ray:2.60"
) -> Iterator[Gateway]:
    """A gateway on a bed, not started yet; ended with the block. ``folder`` takes its home and the storage root."""
    kubeconfig = gateway.install(bed)
    storage = folder / "storage"
    storage.mkdir()
    storage.chmod(0o777)  # pods are user 1000
    port = processes.free_port(host)
    environment = {
        "RAYPLANE_HOME": str(folder / "home"),
        "RAYPLANE_HOST": host,
        "RAYPLANE_PORT": str(port),
        "RAYPLANE_STORAGE_ROOT": f"file://{storage}",
        "RAYPLANE_KUBERNETES_KUBECONFIG": str(kubeconfig),
        "RAYPLANE_KUBERNETES_OPERATOR_NAMESPACE": "kuberay",
        "RAYPLANE_KUBERNETES_IMAGE": image,
        "RAYPLANE_KUBERNETES_STORAGE_VOLUME": json.dumps({"hostPath": {"path": str(storage), "type": "Directory"}}),
        "RAYPLANE_KUBERNETES_AUTOSCALER_CPU": "0.1",
    }
    made = Gateway(folder / "home", host, port, environment, mark=f"gateway-{folder.name}")
    before = os.umask(0o000)  # the folders that the gateway makes for teams are for pods too
    try:
        yield made
    finally:
        os.umask(before)
        made.stop()


def cpu_seconds(pid: int | None) -> float:
    """Seconds of CPU that a process has used; 0 for none."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
