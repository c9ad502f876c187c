"""The surroundings of a worker: a run context on a temporary storage root, and an HTTP server as a fake gateway."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rayplane.nouns.job import FeastAccess, RunContext
from rayplane.runtime import context, report

TOKEN = "worker-token"

Answer = tuple[int, Any]


class WorkerGateway:
    """A fake gateway that answers by route and records its requests.

    ``down`` makes it answer 503, as a proxy in front of a dead gateway does.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.routes: dict[tuple[str, str], Callable[[Any], Answer]] = {("POST", "/v1/events"): lambda body: (200, {})}
        self.down = False
        handler = type("Handler", (_Handler,), {"gateway": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def events(self) -> list[dict[str, Any]]:
        """All received events, in order."""
        posted = [body["events"] for method, path, body in self.requests if (method, path) == ("POST", "/v1/events")]
        return [event for batch in posted for event in batch]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    gateway: WorkerGateway

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output quiet."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        status, answer = self._status(body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _status(self, body: Any) -> Answer:
        if self.gateway.down:
            return 503, {"title": "Unavailable", "detail": "down"}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"type": "urn:rayplane:problem:unauthenticated", "detail": "no such token"}
        route = self.gateway.routes.get((self.command, self.path))
        if route is None:
            return 404, {"type": "urn:rayplane:problem:not-found", "detail": f"no {self.path}", "remedy": "Look again."}
        self.gateway.requests.append((self.command, self.path, body))
        return route(body)


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerGateway]:
    """Run a fake gateway, and set its URL and token in the environment."""
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    server = WorkerGateway()
    monkeypatch.setenv("RAYPLANE_GATEWAY_URL", server.url)
    monkeypatch.setenv("RAYPLANE_TOKEN_PATH", str(token))
    monkeypatch.delenv("RAYPLANE_SUBMISSION_ID", raising=False)
    monkeypatch.setattr(context, "PATIENCE", 0.0)
    yield server
    server.close()


@pytest.fixture
def make_context(gateway: WorkerGateway, tmp_path: Path) -> Callable[..., RunContext]:
    """Return a function that makes a job's run context on this test's storage root; keyword arguments change it."""

    def make(**changes: Any) -> RunContext:
        root = f"file://{tmp_path}/storage"
        settings: dict[str, Any] = {
            "team": "growth",
            "cluster": "dev",
            "gateway_url": gateway.url,
            "storage_root": root,
            "job": "job-1",
            "job_uid": "uid1",
            "job_uri": f"{root}/growth/jobs/uid1",
            "submission_id": "uid1-1",
            "feast": FeastAccess(
                project="growth",
                registry_url=f"sqlite:///{tmp_path}/feast/registry.db",
                online_path=f"{tmp_path}/feast/online/growth.db",
            ),
        }
        return RunContext(**{**settings, **changes})

    return make


@pytest.fixture
def job(make_context: Callable[..., RunContext]) -> Iterator[RunContext]:
    """Run the test as a job with this context; the test may fill in its ``inputs``."""
    with context.override(make_context()) as ctx:
        yield ctx
        assert report.flush(10)
