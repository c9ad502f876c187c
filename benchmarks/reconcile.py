"""Measure the gateway's loop alone: it makes, changes and keeps thousands of clusters; a new gateway takes them over.

    python benchmarks/reconcile.py [--clusters 2000] [--rest 60]

The store and the reconcilers are real; the backend is the fake, which answers at once and reports every change, so that
all measured time is the control plane's own. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rayplane.gateway.admission import tokens
from rayplane.gateway.admission.roles import SYSTEM
from rayplane.gateway.reconcile.cluster import ClusterReconciler
from rayplane.gateway.reconcile.leader import Leader
from rayplane.gateway.reconcile.loop import Loop, Reconciler
from rayplane.gateway.reconcile.team import TeamReconciler
from rayplane.gateway.store import Store
from rayplane.gateway.usecases import objects
from rayplane.gateway.usecases.platform import Platform
from rayplane.settings import GatewaySettings
from rayplane.storage.root import open_root
from rayplane.testing.fakes import FakeBackend

TEAMS = 20


class Gateway:
    """A gateway's loop on a home; the next one on the same home is its successor."""

    def __init__(self, home: Path, backend: FakeBackend, name: str) -> None:
        settings = GatewaySettings(home=home, mlflow_url=None)
        self.store = Store(settings.store_url)
        self.store.migrate()
        self.platform = Platform(
            store=self.store,
            storage=open_root(settings.root_uri),
            settings=settings,
            readers=lambda _: backend,
            wake=lambda: self.loop.wake(),
            signer=tokens.load(settings.home_paths),
        )
        no_rays: Any = None  # the reconciler asks no Ray whether a cluster is in use: these have no idle timeout
        reconcilers: list[Reconciler] = [
            TeamReconciler(self.platform, None, lambda _: backend),
            ClusterReconciler(self.platform, lambda _: backend, no_rays, wake=lambda uid: self.loop.wake(uid)),
        ]
        self.loop = Loop(self.platform, reconcilers, Leader(self.store, name))

    def apply(self, kind: str, team: str, name: str, spec: dict[str, Any]) -> None:
        objects.apply(kind, team, name, spec, labels={}, principal=SYSTEM, platform=self.platform)

    def all_ready(self, generation: int, count: int) -> bool:
        """True if ``count`` clusters are ready for this generation of their spec."""
        ready = [
            cluster
            for cluster in self.store.each("Cluster")
            if cluster.status.phase == "Ready" and cluster.status.observed_generation >= generation
        ]
        return len(ready) == count

    def close(self) -> None:
        self.loop.stop()
        self.store.close()


def until(probe: Callable[[], bool], seconds: float = 900.0) -> float:
    """Wait until ``probe`` is true; returns the seconds that it took, raises SystemExit after ``seconds``."""
    began = time.monotonic()
    while not probe():
        if time.monotonic() - began > seconds:
            raise SystemExit("not done in time")
        time.sleep(0.2)
    return time.monotonic() - began


def rss_mib() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, default=2000)
    parser.add_argument("--rest", type=float, default=60.0, help="Seconds to be at rest for.")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    names = [(f"team-{n % TEAMS}", f"c{n}") for n in range(options.clusters)]
    figures: dict[str, float] = {"clusters": options.clusters}
    backend = FakeBackend()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        gateway = Gateway(home, backend, "one")
        gateway.loop.start()
        for number in range(TEAMS):
            gateway.apply("Team", "", f"team-{number}", {})
        for generation, (step, spec) in enumerate(
            [("create", {}), ("change", {"workers": {"min": 1, "max": 2}})], start=1
        ):
            began, cpu = time.monotonic(), time.process_time()
            for team, name in names:
                gateway.apply("Cluster", team, name, spec)
            figures[f"{step}_requests_per_s"] = options.clusters / (time.monotonic() - began)
            until(partial(gateway.all_ready, generation, options.clusters))
            figures[f"{step}_to_ready_per_s"] = options.clusters / (time.monotonic() - began)
            figures[f"{step}_cpu_ms_each"] = 1000 * (time.process_time() - cpu) / options.clusters
        time.sleep(3)
        looks, cpu, began = backend.observed, time.process_time(), time.monotonic()
        time.sleep(options.rest)
        minutes = (time.monotonic() - began) / 60
        figures["rest_cpu_s_per_minute"] = (time.process_time() - cpu) / minutes
        figures["rest_looks_per_cluster_per_minute"] = (backend.observed - looks) / options.clusters / minutes
        figures["rss_mib"] = rss_mib()
        gateway.close()
        looks, began, cpu = backend.observed, time.monotonic(), time.process_time()
        successor = Gateway(home, backend, "two")
        successor.loop.start()
        until(lambda: backend.observed - looks >= options.clusters)
        figures["restart_to_all_looked_at_s"] = time.monotonic() - began
        figures["restart_cpu_s"] = time.process_time() - cpu
        figures["leases"] = len(successor.store.leases(open_only=True))
        successor.close()
    figures["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({key: round(value, 2) for key, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
