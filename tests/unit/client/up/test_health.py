"""Answers that count as healthy."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from rayplane.client.up import health


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ok" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_status_200_counts_as_healthy(url: str) -> None:
    assert health.answers(f"{url}/ok")
    assert not health.answers(f"{url}/broken")


def test_a_port_without_a_listener_is_unhealthy(free_port: int) -> None:
    assert not health.answers(f"http://127.0.0.1:{free_port}/ok")


def test_a_health_check_ignores_http_proxies_of_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert health.answers(f"{url}/ok")
