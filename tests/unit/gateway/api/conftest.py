"""A platform without compute (a real store and storage in a temporary home), and clients of its API."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from fastapi.testclient import TestClient

from rayplane.gateway.api.app import create_app
from rayplane.gateway.usecases.platform import Platform
from tests.unit.gateway.api.served import platform_without_compute


@pytest.fixture(scope="module", autouse=True)
def _one_event_loop() -> Iterator[None]:
    """A module's clients are answered on one event loop: a client alone makes a thread and a loop for each request."""
    with start_blocking_portal() as portal, pytest.MonkeyPatch.context() as patch:
        patch.setattr(TestClient, "portal", portal)
        yield


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform without reconcilers: objects stay pending until a test writes their status."""
    with platform_without_compute(tmp_path) as made:
        yield made


@pytest.fixture
def token_path(platform: Platform) -> Path:
    """Path of the local user's token."""
    return platform.settings.home_paths.token


@pytest.fixture
def token(token_path: Path) -> str:
    """The local user's token."""
    return token_path.read_text().strip()


@pytest.fixture
def anonymous(platform: Platform) -> TestClient:
    """A client without a token."""
    return TestClient(create_app(platform))


@pytest.fixture
def api(platform: Platform, token: str) -> TestClient:
    """The local user's client, on an empty platform."""
    return TestClient(create_app(platform), headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def growth(api: TestClient) -> TestClient:
    """The local user's client, on a platform with team ``growth`` and its cluster ``dev``."""
    assert api.put("/v1/teams/growth", json={"spec": {}}).is_success
    assert api.put("/v1/teams/growth/clusters/dev", json={"spec": {}}).is_success
    return api


@pytest.fixture
def zipped() -> tuple[str, bytes]:
    """A package: its SHA-256 and its bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train.py", "print('hello')\n")
    return hashlib.sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()
