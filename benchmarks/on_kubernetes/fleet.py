"""Measure a gateway with many clusters of several teams: it makes, changes and keeps them, and restarts."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.on_kubernetes.watching import Key, Watching
from benchmarks.shared.figures import say
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.kinds import NAMESPACE, RAYCLUSTER, Object
from rayplane.gateway.store import Store
from tests.kubernetes.bed.api import wait_for
from tests.kubernetes.bed.control_plane import ControlPlane
from tests.kubernetes.gateway_process import USER, Gateway, cpu_seconds

T = TypeVar("T")

TEAM = {
    "backend": "kubernetes",
    "sizes": {"small": {"cpu": "100m", "memory": "1Gi"}},
}
WRITERS = 4
"""Clients that write to the gateway at once."""
APPLIERS = 16
"""Threads of the bare apply: as many as a gateway reconciles with."""
COMPONENTS = ("kube-apiserver", "etcd", "kwok", "ray-operator", "kube-controller-manager")


@dataclass
class Fleet:
    """Clusters ``c-0`` ..., distributed over the teams ``fleet-0`` ... in turn."""

    bed: ControlPlane
    gateway: Gateway
    watch: Watching
    clusters: int
    teams: int
    patience: float
    """Seconds that any wait may take."""
    _most: int = field(default=2, init=False)
    """``workers.max`` of every cluster; a change raises it by one."""

    def names(self, count: int | None = None) -> list[tuple[str, str]]:
        """(team, cluster) of the first ``count`` clusters."""
        return [(f"fleet-{n % self.teams}", f"c-{n}") for n in range(self.clusters if count is None else count)]

    def keys(self, count: int | None = None) -> list[Key]:
        """(namespace, RayCluster) of the first ``count`` clusters."""
        return [(f"rayplane-{team}", name) for team, name in self.names(count)]

    def make(self) -> dict[str, Any]:
        """Make the teams, then the clusters by HTTP PUTs; wait until all are Ready; return the figures."""
        with self.gateway.client() as client:
            for number in range(self.teams):
                client.teams.apply(f"fleet-{number}", spec=TEAM)
            for number in range(self.teams):
                client.teams.wait("", f"fleet-{number}", timeout=self.patience)
        say(f"{self.teams} teams are onboarded")
        self.settle()
        began, used, asked = time.monotonic(), self._used(), self._asked()
        self._put(self.names())
        written = time.monotonic()
        applied = self.watch.wait_for(self.keys(), self.patience)
        say(f"{self.clusters} RayClusters are there after {applied - began:.1f} s")
        self.wait_ready()
        ready = time.monotonic()
        cpu = self._cpu_since(used, self.clusters)
        self.settle()
        return {
            "clusters_per_second_written": self._rate(self.clusters, written - began),
            "clusters_per_second_applied": self._rate(self.clusters, applied - began),
            "seconds_to_all_ready": round(ready - began, 1),
            "cpu_ms_each": cpu,
            "calls_each": self._calls_since(asked, self.clusters),
        }

    def change_in_store(self, repeat: int) -> dict[str, Any]:
        """Measure reconciling alone: from the commit of a changed spec of each cluster until the last is applied."""
        return self._changes(self.clusters, repeat, self._write_to_store)

    def change_by_http(self, count: int, repeat: int) -> dict[str, Any]:
        """Measure writing and reconciling together: the same with a PUT for each cluster, from the first request."""
        return self._changes(count, repeat, self._put)

    def steady(self, seconds: float) -> dict[str, Any]:
        """Count calls to the API server while nothing changes, by the gateway's count and by the audit log."""
        self.settle()
        asked, used, began = self._asked(), self._used(), time.monotonic()
        time.sleep(seconds)
        minutes = (time.monotonic() - began) / 60
        calls = self._calls_since(asked, minutes)
        rss, peak = self.gateway.memory()
        return {
            "seconds": round(minutes * 60),
            "calls_per_minute": calls,
            "calls_per_cluster_minute": round(max(calls.values()) / self.clusters, 5),
            "gateway_cpu_percent": round(self._cpu_since(used, minutes * 60)["gateway"] / 10, 2),
            "gateway_rss_mb": round(rss),
            "gateway_peak_rss_mb": round(peak),
        }

    def restart(self, *, kill: bool, changed: int) -> dict[str, Any]:
        """Measure from the start of a gateway until every cluster is in its wanted state again.

        While the gateway is down, a RayCluster is tampered with, and ``changed`` specs change in its store.
        """
        before = self.watch.generations()
        tampered, written = self.keys()[-1], self.names(changed)
        self.gateway.stop(kill=kill)
        self._tamper(tampered)
        self._most += 1
        self._write_to_store(written)
        wanted = {key: before[key] for key in self.keys(changed)} | {tampered: before[tampered] + 1}
        began = time.monotonic()
        serving = self.gateway.start()
        applied = self.watch.wait_beyond(wanted, self.patience)
        wait_for(
            "every cluster looked at", lambda: self.gateway.looks() >= self.clusters, seconds=self.patience, every=0.2
        )
        self.wait_ready()
        converged = time.monotonic() - began
        say(f"a gateway that was {'killed' if kill else 'stopped'} has all as wanted {converged:.1f} s after its start")
        return {
            "seconds_to_serving": round(serving, 1),
            "seconds_to_repaired": round(applied - began, 1),
            "seconds_to_converged": round(converged, 1),
        }

    def bare_changes(self, count: int, repeat: int) -> dict[str, Any]:
        """Measure the same changes by server-side apply alone: the limit of this machine's API server."""
        api = KubeApi(self.bed.kubeconfig, timeout=60.0)
        api.apply(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bare"}})
        model = api.get(RAYCLUSTER, *reversed(self.keys()[0]))
        with ThreadPoolExecutor(APPLIERS) as pool:

            def apply(most: int) -> float:
                began = time.monotonic()
                list(pool.map(lambda n: api.apply(RAYCLUSTER, bare(model, f"c-{n}", "bare", most)), range(count)))
                return count / (time.monotonic() - began)

            created, used = apply(0), self._used()
            rates = [apply(most) for most in range(1, repeat + 1)]
        cpu = self._cpu_since(used, count * repeat)
        api.close()
        return {
            "changes_per_second": round(statistics.median(rates), 1),
            "of": [round(rate, 1) for rate in rates],
            "creations_per_second": round(created, 1),
            "cpu_ms_each": cpu,
        }

    def wait_ready(self) -> None:
        """Wait until every cluster is Ready."""

        def ready() -> bool:
            return self.gateway.metric("rayplane_objects", kind="Cluster", phase="Ready") >= self.clusters

        wait_for(f"{self.clusters} clusters Ready", ready, seconds=self.patience, every=0.5)

    def settle(self) -> None:
        """Wait until the gateway has looked at no cluster for five seconds."""
        looks, quiet = -1.0, time.monotonic()
        while time.monotonic() - quiet < 5.0:
            now = self.gateway.looks()
            if now != looks:
                looks, quiet = now, time.monotonic()
            time.sleep(0.5)

    def _changes(self, count: int, repeat: int, write: Callable[[Sequence[tuple[str, str]]], None]) -> dict[str, Any]:
        self.settle()
        rates, used, asked = [], self._used(), self._asked()
        for _ in range(repeat):
            self.settle()
            self._most += 1
            generations = self.watch.generations()
            before = {key: generations[key] for key in self.keys(count)}
            began = time.monotonic()
            write(self.names(count))
            written = time.monotonic()
            applied = self.watch.wait_beyond(before, self.patience)
            rates.append(count / (applied - (began if write == self._put else written)))
            say(f"{count} changes are applied, {rates[-1]:.1f} a second")
        cpu = self._cpu_since(used, count * repeat)
        self.settle()
        return {
            "changes": count,
            "per_second": round(statistics.median(rates), 1),
            "of": [round(rate, 1) for rate in rates],
            "cpu_ms_each": cpu,
            "calls_each": self._calls_since(asked, count * repeat),
        }

    def _spec(self) -> dict[str, Any]:
        return {"workers": {"min": 0, "max": self._most}}

    def _put(self, names: Sequence[tuple[str, str]]) -> None:
        def several(mine: Sequence[tuple[str, str]]) -> None:
            with self.gateway.client() as client:
                for team, name in mine:
                    client.clusters.apply(team, name, self._spec())

        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(several, [names[n::WRITERS] for n in range(WRITERS)]))

    def _write_to_store(self, names: Sequence[tuple[str, str]]) -> None:
        store = Store(self.gateway.database)
        try:
            with store.transaction():
                for team, name in names:
                    cluster = store.get("Cluster", team, name)
                    store.update_spec(cluster.metadata.uid, {**cluster.spec_data, **self._spec()})
        finally:
            store.close()

    def _tamper(self, key: Key) -> None:
        change = [{"op": "replace", "path": "/spec/workerGroupSpecs/0/maxReplicas", "value": 99}]
        namespace, name = key
        self.bed.api.request(
            "PATCH",
            self.bed.api.path("ray.io/v1", "RayCluster", name=name, namespace=namespace),
            headers={"Content-Type": "application/json-patch+json"},
            content=json.dumps(change),
        )

    def _used(self) -> dict[str, float]:
        components = {name: cpu_seconds(self.bed.pid(name)) for name in COMPONENTS}
        return {"gateway": self.gateway.cpu_seconds(), **components}

    def _asked(self) -> tuple[float, int]:
        return self.gateway.calls(), self.bed.audit_log.stat().st_size

    def _calls_since(self, before: tuple[float, int], count: float) -> dict[str, float]:
        """The gateway's requests to the API server, divided by ``count``: by its own count and by the audit log."""
        counted, offset = before
        calls = {"gateway": self.gateway.calls() - counted, "audit_log": _audited(self.bed.audit_log, offset)}
        return {who: round(number / count, 3) for who, number in calls.items()}

    def _cpu_since(self, before: dict[str, float], count: float) -> dict[str, float]:
        """Milliseconds of CPU by process, divided by ``count``: a busy machine changes these figures little."""
        spent = {name: 1000 * (used - before[name]) / count for name, used in self._used().items()}
        return {name: round(ms, 1) for name, ms in spent.items() if ms >= 0.1 or name == "gateway"}

    @staticmethod
    def _rate(count: int, seconds: float) -> float:
        return round(count / seconds, 1)


def bare(model: Object, name: str, namespace: str, most: int) -> Object:
    """A copy of a RayCluster, as a user without the platform would apply it."""
    annotations = {key: value for key, value in model["metadata"]["annotations"].items() if key.startswith("rayplane")}
    group = {**model["spec"]["workerGroupSpecs"][0], "maxReplicas": most + 2}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": namespace, "annotations": {**annotations, "asked": str(most)}},
        "spec": {**model["spec"], "workerGroupSpecs": [group]},
    }


def _audited(log: Path, offset: int) -> int:
    """Number of the gateway's requests in the audit log after ``offset``."""
    with log.open() as file:
        file.seek(offset)
        entries = [json.loads(line) for line in file if USER in line and line.endswith("\n")]
    return len({entry["auditID"] for entry in entries if entry["user"]["username"] == USER and _begins(entry)})


def _begins(entry: dict[str, Any]) -> bool:
    """True for the one entry that counts a request: of a watch its start, since it may not end."""
    return bool(entry["stage"] == "ResponseStarted" or entry["verb"] != "watch")
