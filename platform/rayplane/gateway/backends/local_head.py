"""Compute the start of a local Ray head: its block of ports, command line, environment, temporary folder. Pure."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from rayplane import plugins, processes
from rayplane.errors import PortTaken
from rayplane.gateway.backends.base import RAY_ENVIRONMENT, LaunchContext, Node
from rayplane.nouns.team import Size
from rayplane.processes import ProcessRecord

# Ray replaces 127.0.0.1 by the host's own address, which others can reach; any other loopback address stays.
NODE_ADDRESS = "127.0.0.2"
LOOPBACK = "127.0.0.1"

# A block of ports for each head, below the port range of the local platform's own children and below the kernel's
# ephemeral range (32768-60999), so that no outgoing connection takes a port before the head listens on it.
FIRST_PORT, BLOCK, BLOCKS = 10_240, 256, 38
_SERVICES = (
    *("gcs", "client", "dashboard", "agent_http", "agent_grpc", "metrics", "runtime_env", "object_manager"),
    *("node_manager", "autoscaler_metrics", "dashboard_metrics", "serve"),
)
_FIRST_WORKER = 16

# Inherited from the gateway's environment; nothing else is (its settings, the address of another Ray or MLflow).
_INHERITED = re.compile(
    r"HOME|USER|LOGNAME|SHELL|LANG|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHONPATH|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE"
    r"|(PIP|UV|CUDA|NVIDIA)_.*|(?i:https?_proxy|all_proxy|no_proxy)"
)
_GiB = 2**30
# A socket's path has at most 107 bytes, of which Ray uses 64 below its temporary folder.
_LONGEST_FOLDER = 43


class HeadRecord(ProcessRecord):
    """Record of a started head: enough to reach it, and to remove all of it."""

    team: str = ""
    cluster: str = ""
    ports: dict[str, int] = Field(default_factory=dict)
    temp_dir: str = ""
    token_path: str = ""
    launched_at: float = 0
    """Seconds since the epoch."""
    size: Size | None = None
    """The size with which it was started."""


@dataclass(frozen=True)
class Folders:
    """The folders of a running cluster, and their owner."""

    ray: Path
    """Ray's temporary folder."""
    warm: Path
    """Folder of its warm processes."""
    user: int | None = None
    """The number of the team's user, who alone may enter ``top``; None: the platform's user owns all."""

    @property
    def top(self) -> Path:
        """With a user: the folder that contains all others."""
        return self.ray.parent

    @property
    def home(self) -> Path:
        """With a user: HOME of its processes."""
        return self.top / "h"

    @property
    def temporary(self) -> Path:
        """With a user: TMPDIR of its processes."""
        return self.top / "t"

    @property
    def secrets(self) -> Path:
        """With a user: its copies of the secret files."""
        return self.top / "s"

    def variables(self, team: str) -> dict[str, str]:
        """Environment variables for processes of a user without an entry in the host's user database."""
        if self.user is None:
            return {}
        name = f"rayplane-{team}"
        return {"HOME": str(self.home), "TMPDIR": str(self.temporary), "USER": name, "LOGNAME": name}


def incarnation(record: ProcessRecord) -> str:
    """Identity of this head, different from that of any other."""
    return f"{record.pid}-{record.started}"


def node(record: HeadRecord) -> Node:
    """The head as a Ray node, from the start of its process.

    The record of an interrupted start has no size: the resources on its command line stand for it.
    """
    arguments = dict(
        part.removeprefix("--").split("=", 1) for part in record.argv if part.startswith("--") and "=" in part
    )
    began = datetime.fromtimestamp(record.launched_at, UTC) if record.launched_at else processes.started_at(record)
    return Node(
        id=incarnation(record),
        kind="head",
        cpu=record.size.cpu if record.size else float(arguments.get("num-cpus", 0)),
        memory=record.size.memory if record.size else float(arguments.get("memory", 0)),
        gpu=record.size.gpu if record.size else float(arguments.get("num-gpus", 0)),
        started_at=began,
    )


def mark(home_id: str, uid: str) -> str:
    """The marker that every process of this cluster inherits."""
    return f"{home_id}/ray-{uid}"


def temp_dir(home_id: str, uid: str) -> Path:
    """Ray's temporary folder for a cluster: short, and the same every time."""
    name = f"rp-{home_id}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"
    folder = Path(tempfile.gettempdir()) / name
    return folder if len(str(folder)) <= _LONGEST_FOLDER else Path("/tmp") / name  # noqa: S108  no shorter one exists


def warm_folder(home_id: str, uid: str) -> Path:
    """Folder for the socket of a cluster's warm processes: beside Ray's folder, which Ray opens to all users."""
    folder = temp_dir(home_id, uid)
    return folder.with_name(f"{folder.name}-w")


def folders(home_id: str, uid: str, user: int | None = None) -> Folders:
    """A cluster's folders; with a user all in one that only the user may enter."""
    default = temp_dir(home_id, uid)
    if user is None:
        return Folders(ray=default, warm=warm_folder(home_id, uid))
    shared, _, own = default.name.rpartition("-")
    top = default.with_name(f"{shared}-u") / own
    if len(str(top / "r")) > _LONGEST_FOLDER:
        top = Path("/tmp", *top.parts[-2:])  # noqa: S108  no shorter one exists
    return Folders(ray=top / "r", warm=top / "w", user=user)


def remains(home_id: str, uid: str) -> list[Path]:
    """Every folder that a cluster may have left, whichever user it ran as."""
    default = folders(home_id, uid)
    return [default.ray, default.warm, folders(home_id, uid, user=0).top]


def choose_ports(uid: str, *, attempt: int, taken: Collection[int], is_free: Callable[[int], bool]) -> dict[str, int]:
    """Ports by name, with ``worker_first`` and ``worker_last``, in one free block of them.

    The search starts at a block that depends on cluster and attempt. ``taken``: ports that other heads use or have
    reserved. Raises PortTaken if no block is free.
    """
    start = int(hashlib.sha256(uid.encode()).hexdigest(), 16) + attempt
    for step in range(BLOCKS):
        base = FIRST_PORT + BLOCK * ((start + step) % BLOCKS)
        block = range(base, base + BLOCK)
        if not any(port in block for port in taken) and all(is_free(port) for port in block):
            ports = {name: base + index for index, name in enumerate(_SERVICES)}
            return {**ports, "worker_first": base + _FIRST_WORKER, "worker_last": base + BLOCK - 1}
    last = FIRST_PORT + BLOCK * BLOCKS - 1
    raise PortTaken(
        f"No block of {BLOCK} free ports is left between {FIRST_PORT} and {last} for another Ray head.",
        remedy="Delete a cluster with 'rayplane cluster delete', or stop what listens there (see: ss -ltn).",
    )


def object_store(memory: float, shm_free: float) -> tuple[int, bool]:
    """(bytes of the object store, True if it must be on disk since shared memory is too small)."""
    wanted = min(max(0.15 * memory, 0.25 * _GiB), 2 * _GiB)
    room = 0.8 * shm_free
    return (int(wanted), True) if room < 0.25 * _GiB else (int(min(wanted, room)), False)


def command(
    ports: Mapping[str, int], launch: LaunchContext, folder: Path, store_bytes: int, *, warm: Path | None
) -> list[str]:
    """The head's command line, without secrets. ``warm``: the folder of its warm processes, if it is to have any."""
    ray = [plugins.WARM_HEAD, str(warm)] if warm is not None else ["ray.scripts.scripts"]
    return [
        *(sys.executable, "-m", *ray, "start", "--head", "--block"),
        f"--node-ip-address={NODE_ADDRESS}",
        f"--port={ports['gcs']}",
        f"--ray-client-server-port={ports['client']}",
        "--include-dashboard=true",
        f"--dashboard-host={NODE_ADDRESS}",
        f"--dashboard-port={ports['dashboard']}",
        f"--dashboard-agent-listen-port={ports['agent_http']}",
        f"--dashboard-agent-grpc-port={ports['agent_grpc']}",
        f"--metrics-export-port={ports['metrics']}",
        f"--runtime-env-agent-port={ports['runtime_env']}",
        f"--object-manager-port={ports['object_manager']}",
        f"--node-manager-port={ports['node_manager']}",
        f"--min-worker-port={ports['worker_first']}",
        f"--max-worker-port={ports['worker_last']}",
        # Logical cores, for Ray's scheduler. Train workers, replicas and tasks of one team share the real ones.
        f"--num-cpus={launch.size.ray_cpu}",
        f"--memory={int(launch.size.memory)}",
        f"--num-gpus={round(launch.size.gpu)}",
        f"--object-store-memory={store_bytes}",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
        "--log-color=false",
    ]


def environment(
    ports: Mapping[str, int],
    launch: LaunchContext,
    secret_paths: Mapping[str, Path],
    *,
    slow_store: bool,
    inherited: Mapping[str, str],
    cores: int,
) -> dict[str, str]:
    """The head's environment, which drivers and workers inherit. It has paths of secrets, never secrets."""
    passed_on = {key: value for key, value in inherited.items() if _INHERITED.fullmatch(key)}
    passed_on["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    for key in ("no_proxy", "NO_PROXY"):  # gRPC would send even loopback through a proxy
        passed_on[key] = ",".join(filter(None, [inherited.get(key), "localhost", LOOPBACK, NODE_ADDRESS]))
    threads = str(max(1, cores // 2))
    made = {
        **RAY_ENVIRONMENT,
        "RAY_AUTH_MODE": "token",
        **{variable: str(path) for variable, path in secret_paths.items()},
        # Without these every head exports metrics on the same two ports.
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        # There are more logical than real cores: libraries that start a thread per core in every worker would compete
        # for them. XGBoost takes its number from OMP.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
    }
    if slow_store:
        made["RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"] = "1"
    return {**passed_on, **launch.env, **made}
