"""Compare `cluster create` until ready on a real node with a bare apply of the same objects, in turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.shared.figures import say
from rayplane.client.sdk import Client
from rayplane.gateway.backends.kubernetes import raycluster
from rayplane.gateway.backends.kubernetes.kinds import Object
from tests.kubernetes.bed.api import condition, wait_for
from tests.kubernetes.bed.level_b import LevelB
from tests.kubernetes.gateway_process import Gateway

TEAM, NAMESPACE, NAME = "bench", "rayplane-bench", "dev"
RAY = "ray.io/v1"
SIZE = {"cpu": "600m", "memory": "3Gi", "logical_cpu": 2}
PATIENCE = 300.0
_SERVERS_OWN = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "ownerReferences")


def measure(bed: LevelB, gateway: Gateway, repeat: int) -> dict[str, Any]:
    """Measure both ways in turns; the difference of their medians is the time that the platform adds."""
    with gateway.client() as client:
        client.teams.apply(TEAM, spec={"backend": "kubernetes", "sizes": {"small": SIZE}})
        client.teams.wait("", TEAM, timeout=PATIENCE)
        turns = []
        for number in range(repeat):
            ours, manifests = by_platform(bed, client, gateway)
            say(f"turn {number + 1}: ready through the platform after {ours[0]:.2f} s")
            bare = by_apply(bed, manifests)
            say(f"turn {number + 1}: ready by a bare apply after {bare[0]:.2f} s")
            turns.append((ours, bare))
    ours_seconds = [ours[0] for ours, _ in turns]
    bare_seconds = [bare[0] for _, bare in turns]
    adds = statistics.median(ours_seconds) - statistics.median(bare_seconds)
    return {
        "ours_seconds": [round(seconds, 2) for seconds in ours_seconds],
        "bare_seconds": [round(seconds, 2) for seconds in bare_seconds],
        "ours_median_seconds": round(statistics.median(ours_seconds), 2),
        "bare_median_seconds": round(statistics.median(bare_seconds), 2),
        "adds_seconds": round(adds, 2),
        "ratio": round(statistics.median(ours_seconds) / statistics.median(bare_seconds), 3),
        # The platform adds time before the RayCluster exists, and between the head's readiness and the cluster's.
        "seconds_to_raycluster": round(statistics.median(ours[1] for ours, _ in turns), 2),
        "bare_seconds_to_raycluster": round(statistics.median(bare[1] for _, bare in turns), 2),
        "seconds_from_head_ready": round(statistics.median(ours[2] for ours, _ in turns), 2),
        "command_seconds": round(statistics.median([seconds_of_command(gateway) for _ in range(3)]), 2),
    }


def by_platform(bed: LevelB, client: Client, gateway: Gateway) -> tuple[tuple[float, float, float], list[Object]]:
    """Create and delete a cluster through the platform.

    Returns (seconds until it is Ready, until its RayCluster exists, from its head's readiness to its own), and the
    manifests that the gateway applied.
    """
    began = time.monotonic()
    client.clusters.apply(TEAM, NAME, {"size": "small"})
    wait_for("RayCluster", lambda: bed.api.get(RAY, "RayCluster", NAME, NAMESPACE), seconds=PATIENCE, every=0.02)
    there = time.monotonic()
    head = _in_background(lambda: head_ready(bed))
    client.clusters.wait(TEAM, NAME, timeout=PATIENCE)
    ready = time.monotonic()
    answered = head()
    cluster = bed.api.get(RAY, "RayCluster", NAME, NAMESPACE)
    secret = bed.api.get("v1", "Secret", raycluster.secret_name(NAME), NAMESPACE)
    assert cluster is not None
    assert secret is not None
    client.clusters.delete(TEAM, NAME)
    client.clusters.wait_deleted(TEAM, NAME, timeout=PATIENCE)
    nothing_left(bed)
    return (ready - began, there - began, ready - answered), [manifest(secret), manifest(cluster)]


def by_apply(bed: LevelB, manifests: list[Object]) -> tuple[float, float]:
    """Apply and delete the manifests; returns (seconds until the head is ready, until the RayCluster exists)."""
    began = time.monotonic()
    for obj in manifests:
        bed.api.apply(obj)
    there = time.monotonic()
    ready = head_ready(bed)
    for obj in manifests:
        bed.api.delete(obj["apiVersion"], obj["kind"], obj["metadata"]["name"], NAMESPACE)
    nothing_left(bed)
    return ready - began, there - began


def head_ready(bed: LevelB) -> float:
    """Wait until the head's probes report that Ray answers; returns the monotonic time of that."""

    def look() -> bool:
        labels = f"ray.io/cluster={NAME},ray.io/node-type=head"
        return any(condition(pod, "Ready") == "True" for pod in bed.api.list("v1", "Pod", NAMESPACE, labels=labels))

    wait_for("the head ready", look, seconds=PATIENCE, every=0.05)
    return time.monotonic()


def nothing_left(bed: LevelB) -> None:
    """Wait until no object of the cluster exists, so that the next turn has the node to itself."""
    for version, kind in ((RAY, "RayCluster"), ("v1", "Pod")):
        listed = partial(bed.api.list, version, kind, NAMESPACE)
        wait_for(f"no {kind}", partial(_none, listed), seconds=PATIENCE)


def manifest(obj: Object) -> Object:
    """The manifest of an object: without its status and the metadata that the API server added."""
    meta = {key: value for key, value in obj["metadata"].items() if key not in _SERVERS_OWN}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": meta}


def seconds_of_command(gateway: Gateway) -> float:
    """Seconds of a `rayplane` command with one request: its start and imports come on top of the figures above."""
    environment = {**os.environ, "RAYPLANE_URL": gateway.url, "RAYPLANE_TOKEN_PATH": str(gateway.home / "token")}
    began = time.monotonic()
    program = str(Path(sys.executable).with_name("rayplane"))
    done = subprocess.run([program, "team", "get", TEAM], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"rayplane team get: {done.stderr}")
    return time.monotonic() - began


def _none(listed: Callable[[], list[Object]]) -> bool:
    return not listed()


def _in_background(call: Callable[[], float]) -> Callable[[], float]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future.result
