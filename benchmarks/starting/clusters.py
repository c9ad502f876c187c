"""Time a new cluster until it is ready, and a new service on it until its first answer, on both platforms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.shared.figures import Timed, say, summary, timed
from benchmarks.starting.jobs import PROGRAMS
from benchmarks.starting.sides import SIZE, TEAM, Side
from rayplane.client import quickstart

CLUSTER, SERVICE = "next", "tiny"
MODEL = "models:/tiny@champion"
INSTANCE = {"carrier": "AA", "wind": 0.5}


def clusters_and_services(sides: Mapping[str, Side], rounds: int) -> dict[str, Any]:
    """Figure -> platform -> seconds. Each turn has a new cluster, so that Ray Serve starts with the service."""
    for name, side in sides.items():
        say(f"{name}: a job registers {MODEL}")
        side.run("python tiny_model.py", package=side.api.packages.upload(TEAM, PROGRAMS))
    ready: dict[str, list[Timed]] = {name: [] for name in sides}
    answered: dict[str, list[Timed]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            ready[name].append(timed(partial(_make_cluster, side)))
            side.run("python -c pass", cluster=CLUSTER)  # so that the cluster has settled
            answered[name].append(timed(partial(_make_service, side)))
            seconds = ready[name][-1].seconds, answered[name][-1].seconds
            say(f"round {number}, {name}: a cluster after {seconds[0]:.1f} s, on it a service after {seconds[1]:.1f} s")
            _remove(side)
    return {
        "cluster": {name: summary(its) for name, its in ready.items()},
        "service": {name: summary(its) for name, its in answered.items()},
    }


def _make_cluster(side: Side) -> None:
    side.api.clusters.apply(TEAM, CLUSTER, {"size": SIZE})
    side.api.clusters.wait(TEAM, CLUSTER)


def _make_service(side: Side) -> None:
    side.api.services.apply(TEAM, SERVICE, {"model": MODEL, "cluster": CLUSTER})
    service = side.api.services.wait(TEAM, SERVICE)
    quickstart.ask(str(service.status["url"]), INSTANCE)


def _remove(side: Side) -> None:
    side.api.services.delete(TEAM, SERVICE)
    side.api.services.wait_deleted(TEAM, SERVICE)
    side.api.clusters.delete(TEAM, CLUSTER)
    side.api.clusters.wait_deleted(TEAM, CLUSTER)
