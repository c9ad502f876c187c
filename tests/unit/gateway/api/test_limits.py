"""Limits of connections and requests, against hostile and faulty clients of a real uvicorn, by raw sockets.

Each runs with both of uvicorn's parsers; the gateway takes httptools where it is installed, and else h11.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.api import connections, lanes
from rayplane.gateway.api.app import create_app
from rayplane.gateway.api.connections import BoundedH11
from rayplane.gateway.api.followed import LOOKS, Followed
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.job import JobStatus
from rayplane.storage import layout
from tests.unit.gateway.api.served import serve

MIB = 2**20
LONG = 60.0
"""Seconds after which a test fails if an expected event has not happened."""


@pytest.fixture(params=["httptools", "h11"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of uvicorn's parser that the gateway uses."""
    if request.param == "h11":
        monkeypatch.setattr(connections, "_fastest", lambda: BoundedH11)
    return str(request.param)


@pytest.fixture
def metrics_token(platform: Platform) -> str:
    """The token of Prometheus, which may neither read nor write."""
    return (platform.settings.home_paths.secrets / "metrics.token").read_text().strip()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise the limit of open files: this process has the sockets of both sides."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections.allow_files(1500)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def served(platform: Platform, **settings: Any) -> Iterator[str]:
    """Serve the platform's API with these settings; yields its URL."""
    for name, value in settings.items():
        assert hasattr(platform.settings, name)
        setattr(platform.settings, name, value)
    with serve(platform) as url:
        yield url


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=LONG)  # type: ignore[arg-type]


def head(method: str, path: str, *, token: str | None = None, **headers: object) -> bytes:
    fields = {"host": "gateway", **({"authorization": f"Bearer {token}"} if token else {}), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def send_until_refused(connection: socket.socket, piece: bytes, most: int) -> int:
    """Send until the server closes the connection, or ``most`` bytes; return the bytes sent."""
    sent = 0
    while sent < most:
        try:
            connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            break
        sent += len(piece)
    return sent


def rest_of(connection: socket.socket) -> bytes:
    """Read until the connection is closed."""
    read = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return read
        if not piece:
            return read
        read += piece


def first_of(connection: socket.socket) -> bytes:
    """Read the version and status of a response; empty if the connection was closed instead."""
    try:
        return connection.recv(12)
    except ConnectionResetError:
        return b""


def answer_of(connection: socket.socket) -> bytes:
    """Read one response with a content-length, on a connection that stays open."""
    read = b""
    while b"\r\n\r\n" not in read:
        piece = connection.recv(65536)
        assert piece, read
        read += piece
    top, _, body = read.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in top.lower().split(b"\r\n") if b"content-length" in line)
    while len(body) < length:
        body += connection.recv(65536)
    return top + b"\r\n\r\n" + body


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /healthz HTTP/1.1\r\nx: ", b"y" * 65536),
        (b"GET /healthz HTTP/1.1\r\n", b"x: y\r\n" * 10_000),
        (b"GET /", b"y" * 65536),
    ],
    ids=["one header", "many headers", "the path"],
)
def test_a_head_without_end_is_refused_while_other_requests_are_answered(
    platform: Platform, start: bytes, piece: bytes
) -> None:
    with served(platform) as url, connect(url) as hostile, ThreadPoolExecutor(1) as pool:
        hostile.sendall(start)
        sent = pool.submit(send_until_refused, hostile, piece, 64 * MIB)
        for _ in range(5):
            assert httpx.get(f"{url}/healthz", timeout=LONG).status_code == 200
        assert sent.result() < 16 * MIB  # what the socket buffers of both sides may take at most
        assert rest_of(hostile).startswith(b"HTTP/1.1 431 ")
        assert httpx.get(f"{url}/healthz", timeout=LONG).status_code == 200


@pytest.mark.usefixtures("parser")
def test_the_rest_of_a_request_answered_early_is_not_read_without_end(platform: Platform) -> None:
    with served(platform) as url, connect(url) as hostile:
        hostile.sendall(head("POST", "/v1/plan", transfer_encoding="chunked") + b"0\r\nx: ")
        assert send_until_refused(hostile, b"y" * 65536, 64 * MIB) < 16 * MIB
        assert rest_of(hostile)[:12] in (b"HTTP/1.1 401", b"HTTP/1.1 431")  # whichever limit is reached first


@pytest.mark.usefixtures("parser")
def test_a_body_that_arrives_after_its_early_response_leaves_the_connection_usable(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REST_SECONDS", LONG)
    with served(platform) as url, connect(url) as client:
        client.sendall(head("POST", "/v1/plan", content_length=2))
        assert answer_of(client).startswith(b"HTTP/1.1 401 ")
        client.sendall(b"{}" + head("GET", "/healthz"))
        assert answer_of(client).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("parser")
def test_a_connection_closed_between_requests_gets_no_response(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REST_SECONDS", LONG)
    with served(platform, header_timeout=0.5) as url, connect(url) as client:
        client.sendall(head("POST", "/v1/plan", content_length=2))
        assert answer_of(client).startswith(b"HTTP/1.1 401 ")
        client.sendall(b"{}")
        assert rest_of(client) == b""


@pytest.mark.usefixtures("parser", "growth")
def test_a_client_that_expects_100_continue_gets_it_once_its_request_is_checked(
    platform: Platform, token: str, zipped: tuple[str, bytes]
) -> None:
    sha256, data = zipped
    path = f"/v1/teams/growth/packages/{sha256}"
    with served(platform) as url, connect(url) as client:
        client.sendall(head("PUT", path, token=token, content_length=len(data), expect="100-continue"))
        assert client.recv(65536).startswith(b"HTTP/1.1 100 ")
        client.sendall(data)
        assert answer_of(client).startswith(b"HTTP/1.1 201 ")


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nho"], ids=["nothing", "half a head"])
def test_a_connection_without_a_request_is_closed_in_time(platform: Platform, start: bytes) -> None:
    with served(platform, header_timeout=0.5) as url, connect(url) as client:
        client.sendall(start)
        received = rest_of(client)
        assert received.startswith(b"HTTP/1.1 408 ") if start else received == b""


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("first", [b"", head("GET", "/healthz")], ids=["at first", "after a request"])
def test_a_head_that_arrives_too_slowly_is_answered_408(platform: Platform, first: bytes) -> None:
    with served(platform, header_timeout=0.5) as url, connect(url) as client:
        if first:
            client.sendall(first)
            assert answer_of(client).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET / HTTP/1.1\r\nx: ")
        client.settimeout(0.05)
        deadline = time.monotonic() + LONG
        received = b""
        while not received:
            assert time.monotonic() < deadline
            client.sendall(b"y")
            try:
                received = client.recv(65536)
            except TimeoutError:
                continue
        assert received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("parser")
def test_a_body_that_stops_is_refused_and_leaves_no_file(platform: Platform, growth: TestClient, token: str) -> None:
    package = head("PUT", f"/v1/teams/growth/packages/{'0' * 64}", token=token, content_length=10 * MIB)
    plan = head("POST", "/v1/plan", token=token, content_length=100)
    with served(platform, body_timeout=0.5) as url, connect(url) as first, connect(url) as second:
        first.sendall(plan + b"{")
        second.sendall(package + b"x" * 3 * MIB)
        for client in (first, second):
            assert rest_of(client).startswith(b"HTTP/1.1 408 ")
        assert os.listdir(platform.settings.home_paths.uploads) == []
        assert httpx.get(f"{url}/readyz", timeout=LONG).status_code == 200


@pytest.mark.usefixtures("parser")
def test_an_idle_keep_alive_connection_is_closed_in_time(platform: Platform) -> None:
    with served(platform, keep_alive_timeout=1) as url, connect(url) as client:
        client.sendall(head("GET", "/healthz"))
        assert answer_of(client).startswith(b"HTTP/1.1 200 ")
        assert rest_of(client) == b""


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/teams/growth/clusters/packages", b"413"), ("/v1/teams/packages/packages/x/packages", b"404")],
)
def test_a_large_body_is_refused_before_it_is_read_even_on_paths_with_packages_in_their_name(
    platform: Platform, metrics_token: str, path: str, status: bytes
) -> None:
    json = {"content_type": "application/json", "token": metrics_token}
    with served(platform) as url:
        with connect(url) as client:
            client.sendall(head("PUT", "/v1/teams/growth/clusters/packages", content_length=300 * MIB, **json))
            assert answer_of(client).startswith(b"HTTP/1.1 413 ")
            assert send_until_refused(client, b"x" * 65536, 300 * MIB) < 16 * MIB
        with connect(url) as client:
            client.sendall(head("PUT", path, transfer_encoding="chunked", **json))
            assert send_until_refused(client, b"10000\r\n" + b"x" * 65536 + b"\r\n", 300 * MIB) < 40 * MIB
            assert rest_of(client).startswith(b"HTTP/1.1 " + status)
        assert httpx.get(f"{url}/healthz", timeout=LONG).status_code == 200


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("path", "own", "status"),
    [
        (f"/v1/teams/growth/packages/{'0' * 64}", False, b"403"),
        ("/growth/dev/api/packages/gcs/_ray_pkg_0.zip", False, b"403"),
        (f"/v1/teams/nothing/packages/{'0' * 64}", True, b"404"),
        ("/growth/nothing/api/packages/gcs/_ray_pkg_0.zip", True, b"404"),
        ("/nothing/dev/api/packages/gcs/_ray_pkg_0.zip", True, b"404"),
    ],
)
@pytest.mark.usefixtures("growth")
def test_an_upload_that_is_not_allowed_is_refused_before_its_body_arrives(
    platform: Platform, token: str, metrics_token: str, path: str, own: bool, status: bytes
) -> None:
    with served(platform) as url, connect(url) as client:
        client.sendall(head("PUT", path, token=token if own else metrics_token, content_length=200 * MIB))
        assert answer_of(client).startswith(b"HTTP/1.1 " + status)
    assert not platform.settings.home_paths.uploads.exists()


@pytest.mark.usefixtures("parser", "growth")
@pytest.mark.parametrize("path", [f"/v1/teams/growth/packages/{'0' * 64}", "/growth/dev/api/packages/gcs/p.zip"])
def test_a_package_is_refused_by_its_declared_and_by_its_actual_length(
    platform: Platform, token: str, path: str
) -> None:
    with served(platform, max_package_bytes=2 * MIB) as url:
        with connect(url) as client:
            client.sendall(head("PUT", path, token=token, content_length=2 * MIB + 1))
            assert b".rayignore" in answer_of(client)
        with connect(url) as client:
            client.sendall(head("PUT", path, token=token, transfer_encoding="chunked"))
            assert send_until_refused(client, b"10000\r\n" + b"x" * 65536 + b"\r\n", 300 * MIB) < 16 * MIB
            assert rest_of(client).startswith(b"HTTP/1.1 413 ")
    assert os.listdir(platform.settings.home_paths.uploads) == []


@pytest.mark.usefixtures("parser", "growth")
def test_a_large_package_is_stored_by_way_of_a_file_that_is_removed(platform: Platform, token: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights.bin", os.urandom(20 * MIB))  # more than the limit of any other body
    data, headers = buffer.getvalue(), {"Authorization": f"Bearer {token}"}
    sha256 = hashlib.sha256(data).hexdigest()
    with served(platform) as url:
        half = httpx.put(f"{url}/v1/teams/growth/packages/{sha256}", content=data[:-1], headers=headers, timeout=LONG)
        assert half.status_code == 422
        for path in (f"/v1/teams/growth/packages/{sha256}", "/growth/dev/api/packages/gcs/p.zip"):
            assert httpx.put(url + path, content=data, headers=headers, timeout=LONG).is_success
    assert platform.storage.read(layout.package("growth", sha256)) == data
    assert os.listdir(platform.settings.home_paths.uploads) == []


@pytest.mark.usefixtures("parser", "growth")
def test_an_upload_whose_client_disconnects_leaves_no_file(
    platform: Platform, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    uploads = platform.settings.home_paths.uploads
    with served(platform) as url:
        with connect(url) as client:
            client.sendall(head("PUT", f"/v1/teams/growth/packages/{'0' * 64}", token=token, content_length=9 * MIB))
            client.sendall(b"x" * MIB)
            until(lambda: _open_below(uploads) == 1)
        until(lambda: _open_below(uploads) == 0)
    assert os.listdir(uploads) == []
    assert "unexpectedly" not in caplog.text


def _open_below(folder: Path) -> int:
    """Number of this process's open files that are, or before their deletion were, in a folder."""
    open_now = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            open_now += os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{folder}/")
        except FileNotFoundError:
            continue
    return open_now


@pytest.mark.usefixtures("parser", "many_files")
def test_500_slow_connections_do_not_block_other_requests(platform: Platform, token: str) -> None:
    with served(platform) as url, ExitStack() as slow:
        for _ in range(500):
            slow.enter_context(connect(url)).sendall(b"GET /v1/teams HTTP/1.1\r\nhost: gateway\r\nx: ")
        for path in ("/healthz", "/readyz", "/v1/teams"):
            answer = httpx.get(url + path, headers={"Authorization": f"Bearer {token}"}, timeout=LONG)
            assert answer.status_code == 200


@pytest.mark.usefixtures("parser")
def test_a_connection_beyond_the_reserve_for_probes_is_refused_at_once(
    platform: Platform, job_uid: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "FOR_PROBES", 0)
    with served(platform, max_connections=2) as url, followers(url, platform, job_uid, token, 2) as clients:
        with connect(url) as refused:
            received = rest_of(refused)
            assert received.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 5" in received
        platform.store.set_status(job_uid, JobStatus(phase="Succeeded"))
        for client in clients:
            assert answer_of(client).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("parser")
def test_one_connection_too_many_ends_the_one_that_has_waited_longest(platform: Platform) -> None:
    with served(platform, max_connections=3) as url, ExitStack() as slow:
        clients = [slow.enter_context(connect(url)) for _ in range(3)]
        for client in clients:
            client.sendall(head("GET", "/healthz"))
            assert answer_of(client).startswith(b"HTTP/1.1 200 ")
        assert httpx.get(f"{url}/healthz", timeout=LONG).status_code == 200
        assert rest_of(clients[0]) == b""
        clients[2].sendall(head("GET", "/healthz"))
        assert answer_of(clients[2]).startswith(b"HTTP/1.1 200 ")


@pytest.fixture
def job_uid(platform: Platform, growth: TestClient) -> str:
    """The uid of a job that runs until the test writes another phase."""
    body = {"metadata": {"name": "train"}, "spec": {"entrypoint": "true", "cluster": "dev"}}
    assert growth.post("/v1/teams/growth/jobs", json=body).status_code == 202
    return platform.store.get("Job", "growth", "train").metadata.uid


LOG = "/v1/teams/growth/jobs/train/logs"


@contextmanager
def followers(url: str, platform: Platform, uid: str, token: str, number: int) -> Iterator[list[socket.socket]]:
    """Open requests that the gateway holds until there is more of the job's log."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for _ in range(number)]
        for client in clients:
            client.sendall(head("GET", f"{LOG}?wait=20", token=token))
        until(lambda: len(platform.store.changes._listeners.get(uid, ())) == number)
        yield clients


def tail_of_the_job(token: str) -> bytes:
    """The websocket handshake with which Ray's client follows a log."""
    headers = {
        "connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": 13,
        "sec_websocket_key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip
    return head("GET", "/growth/dev/api/jobs/train/logs/tail", token=token, **headers)


@pytest.mark.usefixtures("parser")
def test_when_all_connections_are_busy_only_probes_are_answered(platform: Platform, job_uid: str, token: str) -> None:
    with served(platform, max_connections=3) as url, followers(url, platform, job_uid, token, 3) as clients:
        refused = httpx.get(f"{url}/v1/teams", headers={"Authorization": f"Bearer {token}"}, timeout=LONG)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        for path in ("/healthz", "/readyz"):
            assert httpx.get(url + path, timeout=LONG).status_code == 200
        platform.store.set_status(job_uid, JobStatus(phase="Succeeded"))
        for client in clients:
            assert answer_of(client).startswith(b"HTTP/1.1 200 ")
        assert httpx.get(f"{url}/healthz", timeout=LONG).status_code == 200


@pytest.mark.usefixtures("parser", "job_uid")
def test_websockets_beyond_the_limit_take_no_connections_of_the_probes(platform: Platform, token: str) -> None:
    with served(platform, max_connections=5) as url, ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for _ in range(20)]
        for client in clients:
            client.sendall(tail_of_the_job(token))
        answers = Counter(first_of(client) for client in clients)
        assert answers[b"HTTP/1.1 101"] == 5
        assert answers.keys() <= {b"HTTP/1.1 101", b"HTTP/1.1 503", b""}, (
            "connections that still waited may have been aborted"
        )
        assert httpx.get(f"{url}/healthz", timeout=LONG).status_code == 200


@pytest.mark.usefixtures("parser")
def test_answered_requests_without_their_bodies_do_not_block_others(platform: Platform, token: str) -> None:
    half = head("POST", "/v1/plan", content_length=9)  # no token: answered 401 before its body arrives
    with served(platform, max_connections=5) as url, ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(connect(url))
            client.sendall(half)
            assert first_of(client) == b"HTTP/1.1 401"
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{url}/v1/teams", headers=headers, timeout=LONG).status_code == 200


@pytest.mark.usefixtures("parser")
def test_a_websocket_handshake_pipelined_after_a_request_leaves_no_connection_behind(platform: Platform) -> None:
    both = head("GET", "/v1/teams") + tail_of_the_job("wrong")
    with served(platform, max_connections=5) as url:
        for _ in range(20):
            with connect(url) as client:
                client.sendall(both)
                first_of(client)
        with ExitStack() as stack:  # as many as the limit, and one more
            for _ in range(6):
                client = stack.enter_context(connect(url))
                client.sendall(head("GET", "/healthz"))
                assert answer_of(client).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_without_end_close_the_connection(platform: Platform) -> None:
    with served(platform) as url, connect(url) as hostile, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send_until_refused, hostile, head("GET", "/v1/teams") * 1000, 64 * MIB)
        while True:
            try:
                if not hostile.recv(MIB):
                    break
            except ConnectionResetError:
                break
        assert sent.result(timeout=LONG) < 64 * MIB
        assert httpx.get(f"{url}/healthz", timeout=LONG).status_code == 200


def test_a_principal_may_follow_only_a_limited_number_of_logs(
    platform: Platform, growth: TestClient, job_uid: str, token: str
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    tail = tail_of_the_job(token)
    with served(platform, max_followed_logs=3) as url:
        with followers(url, platform, job_uid, token, 3) as clients:
            refused = httpx.get(f"{url}{LOG}?wait=20", headers=headers, timeout=LONG)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
            assert "Stop following" in refused.json()["remedy"]
            with connect(url) as another:
                another.sendall(tail)
                assert rest_of(another).startswith(b"HTTP/1.1 429 ")
            assert httpx.get(f"{url}{LOG}", headers=headers, timeout=LONG).status_code == 200
            platform.store.set_status(job_uid, JobStatus(phase="Running"))  # the wait goes on
            platform.storage.append(layout.job_log("growth", job_uid), b"hello")
            platform.store.set_status(job_uid, JobStatus(phase="Succeeded"))
            for client in clients:
                assert answer_of(client).startswith(b"HTTP/1.1 200 ")
        with connect(url) as another:
            another.sendall(tail)
            received = b""
            while b"hello" not in received:
                piece = another.recv(65536)
                assert piece, received
                received += piece


@pytest.mark.usefixtures("parser", "many_files", "job_uid")
def test_log_tails_beyond_the_limit_are_refused_and_the_others_do_not_block_requests(
    platform: Platform, token: str
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    with served(platform) as url, ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for _ in range(300)]
        for client in clients:
            client.sendall(tail_of_the_job(token))
        answers = Counter(client.recv(12) for client in clients)
        assert answers == {b"HTTP/1.1 101": 256, b"HTTP/1.1 429": 44}
        for _ in range(5):
            for path in ("/healthz", "/readyz", "/v1/teams"):
                assert httpx.get(url + path, headers=headers, timeout=LONG).status_code == 200


def test_a_follower_that_disconnects_amid_a_long_log_is_no_error(
    platform: Platform, job_uid: str, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    platform.storage.append(layout.job_log("growth", job_uid), b"x" * 64 * MIB)
    with served(platform) as url, connect(url) as client:
        client.sendall(tail_of_the_job(token))
        assert client.recv(12) == b"HTTP/1.1 101"
        until(lambda: bool(platform.store.changes._listeners))
        client.close()  # with most of the log unread
        until(lambda: not platform.store.changes._listeners)
    assert "Traceback" not in capsys.readouterr().err


def test_a_follower_that_disconnects_makes_room_for_another_at_once(
    platform: Platform, job_uid: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def pause(_: Followed) -> float:  # none before the first read; a quarter of an hour before the next
        calls.append(0)
        return 0.0 if len(calls) == 1 else 1000.0

    monkeypatch.setattr(Followed, "pause", pause)
    with served(platform, max_followed_logs=1) as url:
        for _ in range(2):
            calls.clear()
            with connect(url) as client:
                client.sendall(tail_of_the_job(token))
                assert first_of(client) == b"HTTP/1.1 101"
                until(lambda: len(calls) >= 3)
            until(lambda: not platform.store.changes._listeners)


def test_requests_under_way_are_limited_per_principal(
    platform: Platform, job_uid: str, token: str, metrics_token: str
) -> None:
    with served(platform, max_requests=2) as url, followers(url, platform, job_uid, token, 2) as clients:
        refused = httpx.get(f"{url}/v1/teams", headers={"Authorization": f"Bearer {token}"}, timeout=LONG)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        for path in ("/metrics", "/healthz"):
            other = httpx.get(url + path, headers={"Authorization": f"Bearer {metrics_token}"}, timeout=LONG)
            assert other.status_code == 200
        platform.store.set_status(job_uid, JobStatus(phase="Succeeded"))
        for client in clients:
            assert answer_of(client).startswith(b"HTTP/1.1 200 ")
        again = httpx.get(f"{url}/v1/teams", headers={"Authorization": f"Bearer {token}"}, timeout=LONG)
        assert again.status_code == 200


def test_with_many_followers_each_reads_less_often() -> None:
    followed, ada = Followed(most=1000), Principal(name="ada", role="member")
    with ExitStack() as stack:
        assert followed.pause() == 0
        for _ in range(5 * LOOKS):
            stack.enter_context(followed.one(ada))
        assert followed.pause() == 5
    assert followed.pause() == 0


def test_the_api_and_the_probes_do_not_wait_for_backends(platform: Platform, growth: TestClient, token: str) -> None:
    gate, asked = threading.Event(), threading.Semaphore(0)

    def slow(name: str) -> Any:
        asked.release()
        assert gate.wait(LONG)
        return platform.readers(name)

    headers = {"Authorization": f"Bearer {token}"}
    spec = {"spec": {}}
    with served(replace(platform, readers=slow)) as url, ThreadPoolExecutor(50) as pool:
        writes = [
            pool.submit(httpx.put, f"{url}/v1/teams/growth/clusters/c{n}", json=spec, headers=headers, timeout=2 * LONG)
            for n in range(50)
        ]
        try:
            for _ in range(16):
                assert asked.acquire(timeout=LONG)
            for path in ("/healthz", "/readyz", "/v1/teams", "/v1/teams/growth/clusters/dev"):
                assert httpx.get(url + path, headers=headers, timeout=LONG / 2).status_code == 200
        finally:
            gate.set()
        assert {write.result().status_code for write in writes} <= {202, 403}  # the quota may refuse some


def test_each_route_listed_as_asking_a_backend_exists(platform: Platform) -> None:
    paths = create_app(platform).openapi()["paths"]
    assert [(method, path) for method, path in lanes.ASK_BACKENDS if method.lower() not in paths.get(path, {})] == []
