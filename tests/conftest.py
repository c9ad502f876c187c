"""Fixtures of all suites; the rules of a session (nothing left running, nothing skipped in CI): support/session.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import processes
from rayplane.client.up import tools
from tests.support import postgres
from tests.support.local_platform import LocalPlatform, local_platform

pytest_plugins = ["tests.support.session"]


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


@pytest.fixture
def tmp_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of a local platform, named by RAYPLANE_HOME."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("RAYPLANE_HOME", str(home))
    return home


@pytest.fixture
def free_port() -> int:
    """A port of the loopback that is free now."""
    return processes.free_port()


def _tool(name: str) -> Path:
    found = tools.find(name)
    if found is None:
        pytest.skip(f"'{name}' is missing: run 'make tools'")
    return found
