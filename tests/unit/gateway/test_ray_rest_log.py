"""A job's log is read from Ray byte for byte: by ranges from the node's agent, else whole from the state API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rayplane.errors import NotFound, Unavailable
from rayplane.gateway.ray_rest import RayRest
from rayplane.processes import free_port

LOG = b"before\nZ\xfcrich\r 20 %\r 40 %\r\n" + bytes(range(256)) * 1000 + b"after"
NEVER_BEGAN = "Job j has no driver node id info. This is likely a bug. Please file an issue."


class Ray:
    """A fake dashboard and agent, as far as logs need them; it records the requests."""

    def __init__(self) -> None:
        self.agent_address: str | None = ""
        self.state_api: tuple[int, bytes] = (200, LOG)
        self.agent_asked: list[str] = []
        """The ranges that the agent was asked for."""
        self.agent_tokens: list[str | None] = []
        self.whole_asked = 0

    def answer(self, path: str, headers: Any) -> tuple[int, bytes]:
        if path.startswith("/api/jobs/"):
            job = {"status": "RUNNING", "driver_agent_http_address": self.agent_address}
            return (200, json.dumps(job).encode()) if path == "/api/jobs/j" else (404, b"{}")
        if path.startswith("/api/v0/logs/file?"):
            assert "submission_id=" in path
            assert "lines=-1" in path
            self.whole_asked += 1
            return self.state_api
        assert path == "/logs/job-driver-j.log"
        self.agent_tokens.append(headers["Authorization"])
        self.agent_asked.append(headers["Range"])
        start = int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
        return (206, LOG[start:]) if start < len(LOG) else (416, b"")


@contextmanager
def serving(ray: Ray, host: str = "127.0.0.1") -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = ray.answer(self.path, self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def ray() -> Ray:
    return Ray()


@pytest.fixture
def rest(ray: Ray) -> Iterator[RayRest]:
    with serving(ray) as url:
        ray.agent_address = url
        client = RayRest(url, "the-token")
        yield client
        client.close()


def test_the_agent_sends_the_new_part_of_a_log_byte_for_byte(ray: Ray, rest: RayRest) -> None:
    assert b"".join(rest.log_from("j", 0)) == LOG
    assert b"".join(rest.log_from("j", len(LOG) - 3)) == b"ter"
    assert b"".join(rest.log_from("j", len(LOG))) == b""
    assert ray.agent_asked == ["bytes=0-", f"bytes={len(LOG) - 3}-", f"bytes={len(LOG)}-"]
    assert set(ray.agent_tokens) == {"Bearer the-token"}
    assert ray.whole_asked == 0


def test_an_agent_on_another_host_than_the_dashboards_never_gets_the_token(ray: Ray, rest: RayRest) -> None:
    elsewhere = Ray()
    with serving(elsewhere, "127.0.0.2") as url:
        ray.agent_address = url
        assert b"".join(rest.log_from("j", 7)) == LOG[7:]
    assert elsewhere.agent_tokens == []
    assert ray.whole_asked == 1


def test_without_an_agent_the_whole_log_is_read_and_the_known_part_is_dropped(ray: Ray, rest: RayRest) -> None:
    ray.agent_address = f"http://127.0.0.1:{free_port()}"
    assert b"".join(rest.log_from("j", 1000)) == LOG[1000:]
    assert b"".join(rest.log_from("j", len(LOG) + 5)) == b""
    assert ray.whole_asked == 2


def test_a_job_whose_process_has_not_started_has_no_log_yet(ray: Ray, rest: RayRest) -> None:
    ray.agent_address = None
    assert list(rest.log_from("j", 0)) == []
    assert (ray.agent_asked, ray.whole_asked) == ([], 0)


def test_a_job_that_ended_before_its_process_started_has_no_log(ray: Ray, rest: RayRest) -> None:
    ray.agent_address = "http://192.0.2.1:52365"  # another host: the state API is asked
    ray.state_api = (500, NEVER_BEGAN.encode())
    assert list(rest.log_from("j", 0)) == []


def test_any_other_error_of_ray_is_raised_and_is_no_empty_log(ray: Ray, rest: RayRest) -> None:
    ray.agent_address = "http://192.0.2.1:52365"
    ray.state_api = (500, b"Failed to query data source")
    with pytest.raises(Unavailable, match="Failed to query data source"):
        list(rest.log_from("j", 0))


def test_a_job_that_ray_does_not_have_is_not_found(rest: RayRest) -> None:
    with pytest.raises(NotFound, match="knows no job 'unknown'"):
        list(rest.log_from("unknown", 0))
