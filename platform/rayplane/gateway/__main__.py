"""The gateway's process, `python -m rayplane.gateway`. The composition root: the only file that wires its parts."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from rayplane import local_users, plugins, processes, telemetry
from rayplane.errors import InvalidInput, RayplaneError
from rayplane.gateway.admission import tokens
from rayplane.gateway.api.app import create_app
from rayplane.gateway.api.connections import allow_files, configure
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.reconcile.cluster import ClusterReconciler
from rayplane.gateway.reconcile.job import JobReconciler
from rayplane.gateway.reconcile.leader import Leader
from rayplane.gateway.reconcile.loop import Loop
from rayplane.gateway.reconcile.pipeline import PipelineReconciler
from rayplane.gateway.reconcile.rays import RayClients
from rayplane.gateway.reconcile.rotations import Rotations
from rayplane.gateway.reconcile.service import ServiceReconciler
from rayplane.gateway.reconcile.team import TeamReconciler
from rayplane.gateway.store import Store
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.refusals import Refusals
from rayplane.settings import GatewaySettings, load_gateway, read_secret
from rayplane.storage.root import open_root

log = logging.getLogger("rayplane.gateway")

SWITCH_INTERVAL = 0.0005
"""Seconds for which a thread keeps the interpreter while others want it: the event loop may wait so long to go on."""
GRACE = 5
"""Seconds for which the gateway waits for open requests (a followed log, say) when it stops."""


def main() -> int:
    """Run the gateway until a signal stops it; return the exit code."""
    try:
        settings = load_gateway()
        telemetry.configure(settings.log_level)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # httpx logs a line for each request to Ray and MLflow
        listener = processes.take_listener()
        if listener is None:
            processes.require_free(settings.port, settings.host)
        run(settings, listener)
    except RayplaneError as exc:
        print(f"rayplane gateway: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


def run(settings: GatewaySettings, listener: socket.socket | None) -> None:
    """Wire the parts, serve on ``listener`` or else the settings' port, and at the end close them in reverse order."""
    allow_files(settings.max_connections)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    local_users.prepare(settings)
    store = Store(settings.store_url)
    store.migrate()
    rays = RayClients(settings.existing_addresses)
    mlflow = connect_mlflow(settings)

    backends: dict[str, Any] = {}
    opening = threading.Lock()

    def backend(name: str) -> Any:  # one object per name: it has state of what is under way
        with opening:
            if name not in backends:
                backends[name] = plugins.load("backends", name)(settings)
            return backends[name]

    platform = Platform(
        store=store,
        storage=open_root(settings.root_uri),
        settings=settings,
        readers=backend,
        wake=lambda: loop.wake(),
        ended=lambda uid: jobs.expect_end(uid),
        signer=tokens.load(settings.home_paths),
    )
    jobs = JobReconciler(platform, backend, rays, mlflow, wake=lambda uid: loop.wake(uid))
    loop = Loop(
        platform,
        [
            TeamReconciler(platform, mlflow, backend),
            ClusterReconciler(platform, backend, rays, wake=lambda uid: loop.wake(uid)),
            jobs,
            ServiceReconciler(platform, backend, rays, mlflow, wake=lambda uid: loop.wake(uid)),
            PipelineReconciler(platform, dbos_url=settings.dbos_url, mlflow=mlflow),
        ],
        # The process id makes a restarted gateway another holder: its predecessor may still be running.
        Leader(store, f"{socket.gethostname()}:{os.getpid()}"),
        others=[Rotations.from_now(platform, mlflow, everything=lambda: loop.look_at_everything())],
        interval=settings.reconcile_interval,
    )
    refusals = Refusals(store)
    server = _Server(
        store,
        configure(
            create_app(platform, loop=loop, refusals=refusals),
            settings,
            host=settings.host,
            port=settings.port,
            # Metrics count the requests; a log line for each would drown the rest.
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=GRACE,
        ),
    )
    # Imported objects live forever: collecting garbage among them would block every request for a tenth of a second.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL)
    refusals.start()
    loop.start()
    try:
        log.info("the gateway listens at %s", settings.url, extra={"home": str(settings.home)})
        server.run(sockets=[listener] if listener is not None else None)
    finally:
        loop.stop()
        refusals.close()
        for opened in backends.values():
            opened.close()
        rays.close()
        if mlflow is not None:
            mlflow.close()
        store.close()
        log.info("the gateway has stopped")


class _Server(uvicorn.Server):
    """Ends requests that wait for a change as soon as a signal stops the server, which would else wait for them."""

    def __init__(self, store: Store, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._store = store

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._store.changes.close()
        super().handle_exit(sig, frame)


def connect_mlflow(settings: GatewaySettings) -> MlflowRest | None:
    """Create the MLflow client, as MLflow's admin; None if the settings have no MLflow URL. Makes no request.

    Raises InvalidInput without a readable file of the admin's user name and password.
    """
    if settings.mlflow_url is None:
        return None
    path = settings.mlflow_admin_path
    if path is None:
        raise InvalidInput(
            "RAYPLANE_MLFLOW_URL is set, but RAYPLANE_MLFLOW_ADMIN_PATH is not.",
            remedy="Name the 0600 file with the MLflow admin's user name and password, one a line.",
        )

    def admin() -> tuple[str, str]:
        lines = read_secret(Path(path)).splitlines()
        if len(lines) < 2:
            raise InvalidInput(f"'{path}' needs two lines: user name, password.", remedy="Write one on each line.")
        return lines[0], lines[1]

    return MlflowRest(settings.mlflow_url, *admin(), reread=admin)


if __name__ == "__main__":
    sys.exit(main())
