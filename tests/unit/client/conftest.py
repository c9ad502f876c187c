"""A client whose gateway is not there, and its clock; tests that need another override them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayplane.client.sdk import Client
from tests.support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def client(tmp_path: Path, clock: FakeClock) -> Client:
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    token.chmod(0o600)
    return Client("http://127.0.0.1:1", token, clock=clock)
