"""Measure the platform on Kubernetes: the time it adds to a cluster's creation, and the clusters of one gateway.

python -m benchmarks.kubernetes [--part create|operator|kwok ...] [--clusters N] [--repeat N] [--steady SECONDS]

Prints JSON. Parts:

- create: on a real node (the test bed's level B, as root), `cluster create` until it is Ready, compared with a bare
  apply of the same RayCluster and Secret until its head is ready, in turns; the difference of the medians.
- operator: 200 clusters on fake nodes (level A), managed by the real KubeRay operator.
- kwok: 2,000 clusters without the operator: each gets a head pod, which kwok reports as running, and no other pod.

A change of desired state raises a cluster's most workers by one, so no pod comes or goes. ``changes_in_store`` counts
from the commit of all changes to the arrival of the last one at the API server; ``changes_by_http`` from the first PUT;
``bare`` is the rate of the same changes with an applier as the API server's only client. Everything runs on one
machine: ``cpu_ms_each`` shows which process used it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.on_kubernetes import create
from benchmarks.on_kubernetes.fleet import Fleet
from benchmarks.on_kubernetes.watching import played_operator, watching
from benchmarks.shared.figures import say
from rayplane.errors import RayplaneError
from tests.kubernetes.bed.level_a import level_a
from tests.kubernetes.bed.level_b import level_b
from tests.kubernetes.gateway_process import gateway_on

PARTS = ("create", "operator", "kwok")
CLUSTERS = {"operator": 200, "kwok": 2000}
PER_TEAM = 100
"""Clusters of one team."""
WANTED = {
    "adds_seconds": 2.4,
    "changes_per_second": 50.0,
    "calls_per_cluster_minute": 0.1,
    "gateway_rss_mb": 300.0,
    "seconds_to_converged": 30.0,
}


def measure_create(repeat: int) -> dict[str, Any]:
    """Measure the part on a real node."""
    with (
        level_b(say=say) as bed,
        tempfile.TemporaryDirectory(prefix="rp-bench-") as folder,
        gateway_on(bed, Path(folder), host=bed.host_address, image=bed.image) as gateway,
    ):
        gateway.start()
        figures = create.measure(bed, gateway, repeat)
    return {**figures, "met": {"adds_seconds": figures["adds_seconds"] <= WANTED["adds_seconds"]}}


def measure_fleet(part: str, clusters: int, repeat: int, steady: float, patience: float) -> dict[str, Any]:
    """Measure a part on fake nodes: with the real operator, or with the played one."""
    teams = -(-clusters // PER_TEAM)
    with ExitStack() as stack:
        bed = stack.enter_context(level_a(audit=True, say=say))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rp-bench-")))
        gateway = stack.enter_context(gateway_on(bed, folder))
        watch = stack.enter_context(watching(bed.kubeconfig))
        if part == "kwok":
            bed.stop("ray-operator")
            stack.enter_context(played_operator(watch, bed.kubeconfig, "fake-0"))
        fleet = Fleet(bed, gateway, watch, clusters, teams, patience)
        started = gateway.start()
        say(f"the gateway serves after {started:.1f} s: pid {gateway.pid}, {gateway.url}")
        few = min(clusters, 200)
        figures: dict[str, Any] = {"clusters": clusters, "teams": teams, "made": fleet.make()}
        figures["changes_in_store"] = fleet.change_in_store(repeat)
        figures["changes_by_http"] = fleet.change_by_http(few, repeat)
        figures["steady"] = fleet.steady(steady)
        figures["stopped"] = fleet.restart(kill=False, changed=few // 10)
        figures["killed"] = fleet.restart(kill=True, changed=few // 10)
        figures["bare"] = fleet.bare_changes(few, repeat)
    ratio = figures["changes_in_store"]["per_second"] / figures["bare"]["changes_per_second"]
    figures["ratio_to_bare"] = round(ratio, 2)
    return {**figures, "met": met(figures)}


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Name of each wanted figure -> True if the fleet reaches it."""
    converged = max(figures[how]["seconds_to_converged"] for how in ("stopped", "killed"))
    steady = figures["steady"]
    return {
        "changes_per_second": figures["changes_in_store"]["per_second"] >= WANTED["changes_per_second"],
        "calls_per_cluster_minute": steady["calls_per_cluster_minute"] <= WANTED["calls_per_cluster_minute"],
        "gateway_rss_mb": steady["gateway_rss_mb"] <= WANTED["gateway_rss_mb"],
        "seconds_to_converged": converged <= WANTED["seconds_to_converged"],
    }


def with_load(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure, and add the machine's load before and after; the load after includes the measurement's own."""
    before = os.getloadavg()[0]
    return {**measure(), "load": round(before, 2), "load_after": round(os.getloadavg()[0], 2)}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the platform on Kubernetes.")
    parser.add_argument("--part", choices=PARTS, action="append", help="A part to measure; all if none is named.")
    parser.add_argument("--clusters", type=int, help="Clusters of a fleet, instead of 200 and 2,000.")
    parser.add_argument("--repeat", type=int, default=5, help="Turns of each way to create; the figure is the median.")
    parser.add_argument("--changes", type=int, default=3, help="Rounds of changes; the figure is their median.")
    parser.add_argument("--steady", type=float, default=300.0, help="Seconds in which nothing changes.")
    parser.add_argument("--patience", type=float, default=900.0, help="Seconds after which it gives up waiting.")
    asked = parser.parse_args()
    if (
        min(asked.repeat, asked.changes) < 1
        or (asked.clusters is not None and asked.clusters < 10)
        or asked.steady <= 0
    ):
        parser.error("--repeat and --changes must be at least 1, --clusters at least 10, --steady above 0")
    parts: dict[str, Any] = {}
    code = 0
    for part in asked.part or PARTS:
        say(f"part {part}")
        if part == "create":
            measure = partial(measure_create, asked.repeat)
        else:
            count = asked.clusters or CLUSTERS[part]
            measure = partial(measure_fleet, part, count, asked.changes, asked.steady, asked.patience)
        try:
            parts[part] = with_load(measure)
        except RayplaneError as error:
            say(f"part {part} is not measured: {error}")
            code = error.exit_code
    if parts:
        print(json.dumps({"figure": "the platform on Kubernetes", "wanted": WANTED, "parts": parts}))
    return code


if __name__ == "__main__":
    sys.exit(main())
