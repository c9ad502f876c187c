"""A platform without compute, and its app behind a real uvicorn on a free port, for stock clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from rayplane.gateway.admission import tokens
from rayplane.gateway.api.app import create_app
from rayplane.gateway.api.connections import configure
from rayplane.gateway.store import Store
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.refusals import Refusals
from rayplane.processes import free_port
from rayplane.settings import GatewaySettings
from rayplane.storage.root import open_root
from rayplane.testing.fakes import FakeBackend
from tests.support import stores


@contextmanager
def platform_without_compute(folder: Path) -> Iterator[Platform]:
    """A platform on a real store and storage in ``folder``, without reconcilers."""
    settings = GatewaySettings(home=folder / "home", mlflow_url="http://127.0.0.1:1")
    store, backend = Store(stores.migrate(f"sqlite:///{folder / 'gateway.db'}")), FakeBackend()
    yield Platform(
        store=store,
        storage=open_root(f"file://{folder / 'storage'}"),
        settings=settings,
        readers=lambda _: backend,
        wake=lambda: None,
        signer=tokens.load(settings.home_paths),
    )
    store.close()


@contextmanager
def serve(
    platform: Platform, *, settings: GatewaySettings | None = None, refusals: Refusals | None = None
) -> Iterator[str]:
    """Serve the platform's API; yields its URL. ``settings`` replace the platform's."""
    port, app = free_port(), create_app(platform, refusals=refusals)
    config = configure(app, settings or platform.settings, host="127.0.0.1", port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()
