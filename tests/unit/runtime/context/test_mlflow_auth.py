"""MLflow's own client, configured only by the environment, authenticates as the team's user in its workspace."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from rayplane.runtime.mlflow_auth import TeamIdentity

Headers = list[dict[str, str]]


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch, credentials: Path) -> Iterator[Headers]:
    """Run a fake tracking server without experiments; yields the headers of the POST requests that it receives."""
    received: Headers = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            received.append(dict(self.headers))
            self._answer(b"{}")

        def do_GET(self) -> None:  # MLflow asks first whether the server has workspaces
            self._answer(b'{"workspaces_enabled": true}')

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "rayplane")
    monkeypatch.setenv("MLFLOW_WORKSPACE", "growth")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("RAYPLANE_MLFLOW_CREDENTIALS", str(credentials))
    yield received
    server.shutdown()
    server.server_close()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "mlflow"
    path.write_text("team-growth\nfirst\n")
    path.chmod(0o600)
    return path


def _ask() -> None:
    mlflow.MlflowClient(tracking_uri=None).search_experiments()


def _identity(headers: dict[str, str]) -> str:
    return base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()


def test_mlflow_finds_the_provider_by_its_name() -> None:
    [entry] = [e for e in entry_points(group="mlflow.request_auth_provider") if e.name == "rayplane"]
    assert entry.load() is TeamIdentity
    assert TeamIdentity().get_name() == "rayplane"


def test_the_client_sends_identity_and_workspace_and_notices_a_new_password(
    headers: Headers, credentials: Path
) -> None:
    _ask()
    assert _identity(headers[-1]) == "team-growth:first"
    assert {k.lower(): v for k, v in headers[-1].items()}["x-mlflow-workspace"] == "growth"
    credentials.write_text("team-growth\nsecond\n")
    _ask()
    assert _identity(headers[-1]) == "team-growth:second"


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [("a\nb\n", 0o644, "chmod 600"), ("a\n", 0o600, "two lines"), (None, 0o600, "can't be read")],
)
def test_a_bad_credentials_file_is_an_error_and_no_request_is_sent(
    headers: Headers, credentials: Path, content: str | None, mode: int, says: str
) -> None:
    if content is None:
        credentials.unlink()
    else:
        credentials.write_text(content)
        credentials.chmod(mode)
    with pytest.raises(MlflowException, match=says):
        _ask()
    assert headers == []
