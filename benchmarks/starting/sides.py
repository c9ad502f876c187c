"""Run two local platforms, with and without warm processes: each in a new home, with a cluster that has run a job."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shared.figures import say
from rayplane import processes
from rayplane.client.sdk import Client
from rayplane.nouns.cluster import ClusterStatus, Endpoint
from tests.support.local_platform import LocalPlatform, local_platform

TEAM, CLUSTER = "bench", "dev"
SIZE = "small"
QUOTA = {"cpu": 32, "memory": "32Gi", "clusters": 2}
WARM, PLAIN = "warm", "plain"
SETTINGS: Mapping[str, Mapping[str, str]] = {WARM: {}, PLAIN: {"RAYPLANE_WARM_PROCESSES": "false"}}
WARM_INTERPRETER = b"rayplane.runtime.warm.zygote"
"""Module in the command line of a warm interpreter, and in that of its children until they change it."""


@dataclass(frozen=True)
class Side:
    """A running platform, and a client of it."""

    name: str
    platform: LocalPlatform
    api: Client

    @property
    def endpoint(self) -> Endpoint:
        """Addresses of the cluster's head."""
        endpoint = ClusterStatus.model_validate(self.api.clusters.get(TEAM, CLUSTER).status).endpoint
        assert endpoint is not None, "the cluster is not ready"
        return endpoint

    def run(self, entrypoint: str, *, cluster: str = CLUSTER, package: str | None = None) -> None:
        """Run a job to its end; raises Failed unless it succeeds."""
        job = self.api.jobs.submit(TEAM, {"entrypoint": entrypoint, "cluster": cluster, "package": package})
        self.api.jobs.wait(TEAM, job.metadata.name, phases={"Succeeded"})

    def warm_interpreters(self) -> list[int]:
        """Pids of the platform's warm interpreters, without their forked children."""
        forked_from = {pid: _parent(pid) for pid in processes.marked(self.platform.home.id) if _is_warm(pid)}
        return [pid for pid, parent in forked_from.items() if not _is_warm(parent)]


@contextmanager
def side(name: str) -> Iterator[Side]:
    """Start one of the two; at the block's end stop it and assert that no process is left."""
    with (
        tempfile.TemporaryDirectory(prefix="rp-bench-") as folder,
        local_platform(Path(folder) / "home", SETTINGS[name]) as platform,
        platform.client as api,
    ):
        say(f"the {name} platform is up: its cluster starts and runs a job")
        started = Side(name, platform, api)
        api.teams.apply(TEAM, spec={"quota": QUOTA})
        api.teams.wait("", TEAM)
        api.clusters.apply(TEAM, CLUSTER, {"size": SIZE})
        api.clusters.wait(TEAM, CLUSTER)
        started.run("python -c pass")
        count = len(started.warm_interpreters())
        if count != (name == WARM):
            raise SystemExit(f"the cluster of the {name} platform has {count} warm interpreters")
        yield started


def _is_warm(pid: int) -> bool:
    try:
        return WARM_INTERPRETER in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
