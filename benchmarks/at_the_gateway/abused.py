"""Measure the effect of hostile callers on others: a probe's wait in the meantime, and the gateway's memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.at_the_gateway.assaults import ASSAULTS, Target, under_way
from benchmarks.at_the_gateway.jobs import CLUSTER, TEAM
from benchmarks.at_the_gateway.process import Gateway
from benchmarks.shared.figures import p99, say
from rayplane.storage import layout

EVERY = 0.02
JOB = "followed"


def measure(server: Gateway, seconds: float) -> dict[str, Any]:
    """The longest wait for /healthz under each assault and under all at once; the gateway's largest memory."""
    with server.connect() as connection:
        spec = {"entrypoint": "true", "cluster": CLUSTER, "tracked": False}
        made = json.loads(connection.ask(f"/v1/teams/{TEAM}/jobs", {"metadata": {"name": JOB}, "spec": spec}))
    log = server.home / "storage" / layout.job_log(TEAM, made["metadata"]["uid"])
    log.parent.mkdir(parents=True, exist_ok=True)
    target = Target(
        port=server.port,
        token=server.token,
        metrics_token=(server.home / "secrets" / "metrics.token").read_text().strip(),
        tail=f"/{TEAM}/{CLUSTER}/api/jobs/{JOB}/logs/tail",
        team=TEAM,
        seconds=seconds,
    )
    figures: dict[str, Any] = {"resident_mb_before": round(server.resident_mb(), 1)}
    with _growing(log):
        figures["at rest"], _ = _probe(server, lambda: time.sleep(seconds))
        for names in (*([name] for name in ASSAULTS), list(ASSAULTS)):
            title = names[0] if len(names) == 1 else "all at once"
            say(title)
            with under_way(names, target) as records:
                figures[title], assaults = _probe(server, records)
                figures[title]["assaults"] = assaults
    figures["resident_mb_at_most"] = round(server.most_resident_mb(), 1)
    return figures


def _probe(server: Gateway, during: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """Ask /healthz, on new connections without a token, while ``during`` runs.

    Returns (the seconds that it takes, the result of ``during``).
    """
    taken = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(during)
        while not running.done():
            began = time.monotonic()
            with server.connect(token="") as connection:
                connection.ask("/healthz")
            taken.append(time.monotonic() - began)
            time.sleep(EVERY)
        result = running.result()
    taken.sort()
    figure = {
        "probes": len(taken),
        "p99_seconds": round(p99(taken), 4),
        "longest_seconds": round(taken[-1], 4),
    }
    return figure, result


@contextmanager
def _growing(log: Path) -> Iterator[None]:
    """Add a line to a log ten times a second, for the length of the block."""
    ended = threading.Event()

    def grow() -> None:
        number = 0
        with log.open("ab", buffering=0) as file:
            while not ended.wait(0.1):
                number += 1
                file.write(b"line %d\n" % number)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
