"""Fixtures of all suites; the rules of a session (nothing left running, nothing skipped in CI): support/session.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import processes
from rayplane.client.up import tools
from rayplane.runtime import feast_import
from tests.support import distributions, postgres
from tests.support.local_platform import LocalPlatform, local_platform
from tests.support.stock_ray import StockRay
from tests.support.warm import Warm, warm_interpreter

pytest_plugins = ["tests.support.session"]

feast_import.without_type_checks()  # seconds of each worker of pytest, which imports every test


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy URL of the maintenance database of a real Postgres; tests make their own databases in it."""
    with postgres.server() as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """SQLAlchemy URL of a new, empty Postgres database, dropped after the test."""
    with postgres.database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def prometheus_binary() -> Path:
    """The Prometheus that `make tools` found or fetched."""
    return _tool("prometheus")


@pytest.fixture(scope="session")
def promtool_binary() -> Path:
    """The promtool that came with it."""
    return _tool("promtool")


@pytest.fixture(scope="session")
def platform_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """A real `rayplane up` on a home of its own, shared by the session; brought down at its end, it leaves nothing."""
    with local_platform(tmp_path_factory.mktemp("platform") / "home") as made:
        yield made


@pytest.fixture(scope="session")
def stock_ray(tmp_path_factory: pytest.TempPathFactory) -> StockRay:
    """An environment with `ray[default]` and no rayplane."""
    return StockRay.install(tmp_path_factory.mktemp("stock") / "env")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A warm interpreter, one for the session: what a test does to a child must not reach the next one's."""
    with warm_interpreter(tmp_path_factory.mktemp("warm")) as made:
        yield made


@pytest.fixture(autouse=True)
def _mlflow_settings() -> Iterator[None]:
    """MLflow's client keeps its settings in the process: put back what a test changed."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    if "mlflow" in sys.modules and {n: v for n, v in os.environ.items() if n.startswith("MLFLOW_")} != before:
        sys.modules["mlflow"].set_tracking_uri(None)
        sys.modules["mlflow"].set_workspace(None)
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            del os.environ[name]
        os.environ.update(before)


@pytest.fixture
def tmp_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of a local platform, named by RAYPLANE_HOME."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("RAYPLANE_HOME", str(home))
    return home


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """Install the distribution of `tests/third_party` for one test: family -> name -> `module:attribute`."""
    return distributions.install_third_party(monkeypatch, tmp_path / "site-packages")


@pytest.fixture
def free_port() -> int:
    """A port of the loopback that is free now."""
    return processes.free_port()


def _tool(name: str) -> Path:
    found = tools.find(name)
    if found is None:
        pytest.skip(f"'{name}' is missing: run 'make tools'")
    return found
