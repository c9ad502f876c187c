"""The client of Ray's dashboard, against servers that are slow, send without end, redirect, or are no Ray."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rayplane.errors import Failed, InvalidInput, NotFound, RayplaneError, Unauthenticated, Unavailable
from rayplane.gateway.ray_address import AllowList
from rayplane.gateway.ray_reach import NOT_ALLOWED, Reach
from rayplane.gateway.ray_rest import MOST_STATUS, RayRest
from tests.support.strange_server import RAY, Answer, StrangeServer, drip, endless, plain, redirect, strange_server

LOOPBACK = Reach(AllowList(["127.0.0.0/8", "::1"]), placed=False)
LONG = 25.0
"""Seconds that no call with a deadline takes, but any call that waits for a slow server to finish."""


@pytest.fixture
def served() -> Iterator[Callable[[Answer], StrangeServer]]:
    opened = []

    def serve(answer: Answer) -> StrangeServer:
        context = strange_server(answer)
        opened.append(context)
        return context.__enter__()

    yield serve
    for context in opened:
        context.__exit__(None, None, None)


def client(server: StrangeServer, *, token: str | None = None, reach: Reach | None = LOOPBACK, **more: Any) -> RayRest:
    return RayRest(server.url, token, reach=reach, **{"timeout": 1.0, **more})


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"", b"H"),
        drip(b"HTTP/1.1 200 OK\r\nX-Long: "),
        drip(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drip(b"HTTP/1.1 500 Oops\r\nContent-Length: 100000\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("reach", [LOOPBACK, None])
def test_a_call_to_a_slow_server_ends_at_its_deadline(served: Any, answer: Answer, reach: Reach | None) -> None:
    ray, began = client(served(answer), reach=reach), time.monotonic()
    with pytest.raises(Unavailable, match="Ray does not answer at"):
        ray.version()
    assert time.monotonic() - began < LONG


def test_an_endless_response_is_abandoned_at_the_size_limit(served: Any) -> None:
    server = served(endless)
    with pytest.raises(Unavailable, match=f"with more than {MOST_STATUS} bytes"):
        client(server, timeout=LONG).version()
    assert server.sent < 16 * MOST_STATUS, "the rest was never sent, except for what the sockets' buffers hold"


def test_a_response_below_the_size_limit_is_accepted(served: Any) -> None:
    body = RAY[:-1] + b', "more": "' + b"x" * (MOST_STATUS // 2) + b'"}'
    assert client(served(plain(body)), timeout=LONG).version()["ray_version"] == "2.60.0"


def test_a_compressed_response_is_not_unpacked(served: Any) -> None:
    server = served(plain(gzip.compress(b"\0" * 2**26), headers="Content-Encoding: gzip\r\n"))
    with pytest.raises(Unavailable, match="compressed, which was not asked for"):
        client(server, timeout=LONG).version()
    assert server.header("Accept-Encoding") == ["identity"]


def test_a_redirect_is_not_followed_and_the_token_is_not_sent_there(served: Any) -> None:
    other = served(plain(RAY))
    server = served(redirect(f"{other.url}/api/version"))
    with pytest.raises(Failed, match="Ray answered 302 to GET"):
        client(server, token="geheim").version()
    assert other.requests == []
    assert server.header("Authorization") == ["Bearer geheim"]


@pytest.mark.parametrize("reach", [LOOPBACK, None])
def test_reading_a_log_follows_no_redirect(served: Any, reach: Reach | None) -> None:
    other = served(plain(RAY))
    server = served(redirect(f"{other.url}/elsewhere"))
    with pytest.raises(Failed, match="answered 302"):
        list(client(server, token="geheim", reach=reach).log_from("raysubmit_1", 0))
    assert other.requests == []


def test_a_log_that_is_compressed_is_not_unpacked(served: Any) -> None:
    server = served(plain(gzip.compress(b"\0" * 2**26), headers="Content-Encoding: gzip\r\n"))
    with pytest.raises(Unavailable, match="compressed, which was not asked for"):
        list(client(server, timeout=LONG).log_from("raysubmit_1", 0))


@pytest.mark.parametrize(
    "body", [b"", b"<html>geheim</html>", b"[1]", b'"geheim"', b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b'{"geheim": ']
)
def test_a_response_that_is_no_json_object_is_reported_without_repeating_it(served: Any, body: bytes) -> None:
    with pytest.raises(Unavailable, match=r"answered 200 to GET .*/api/version, but not with a JSON object") as caught:
        client(served(plain(body))).version()
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("400 Bad", InvalidInput),
        ("401 No", Unauthenticated),
        ("403 No", Unauthenticated),
        ("404 Gone", NotFound),
        ("418 Tea", Failed),
        ("500 Oops", Unavailable),
    ],
)
def test_an_error_of_a_server_that_others_run_is_reported_by_its_status_alone(
    served: Any, status: str, error: type[RayplaneError]
) -> None:
    server = served(plain(b'{"msg": "geheim"}', status=status))
    with pytest.raises(error, match=f"Ray answered {status[:3]} to GET") as caught:
        client(server).version()
    assert "geheim" not in f"{caught.value} {caught.value.to_problem()}"


def test_an_error_of_the_platforms_own_ray_repeats_rays_message(served: Any) -> None:
    server = served(plain(b'{"msg": "Traceback\\nValueError: no such runtime_env"}', status="400 Bad"))
    with pytest.raises(InvalidInput, match="ValueError: no such runtime_env"):
        client(server, reach=None).submit("true", "a-1")


def test_a_server_that_does_not_speak_http_is_reported_without_repeating_it(served: Any) -> None:
    def banner(connection: socket.socket, server: StrangeServer) -> None:
        connection.sendall(b"220 mail.geheim.example ESMTP\r\n")

    with pytest.raises(Unavailable, match="it does not speak HTTP as a server does") as caught:
        client(served(banner)).version()
    assert "geheim" not in str(caught.value)


def test_an_address_that_is_not_allowed_is_not_connected_to(served: Any) -> None:
    server = served(plain(RAY))
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1 is not among the addresses") as caught:
        client(server, reach=Reach(AllowList(["10.0.0.0/8"]), placed=False)).version()
    assert caught.value.fields["reason"] == NOT_ALLOWED
    assert server.requests == []
    assert client(server, reach=Reach(AllowList([]), placed=True)).version()["ray_version"] == "2.60.0"


def test_a_log_is_not_read_from_an_address_that_is_not_allowed(served: Any) -> None:
    server = served(plain(RAY))
    with pytest.raises(Unavailable, match="is not among the addresses"):
        list(client(server, reach=Reach(AllowList([]), placed=False)).log_from("raysubmit_1", 0))
    assert server.most_at_once == 0


def answering(*answers: str) -> tuple[Callable[..., list[Any]], list[str]]:
    """(a resolver that returns these addresses in turn, the last one repeatedly; the names that it was asked for)."""
    asked: list[str] = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        ip = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    return resolve, asked


def test_a_name_is_resolved_once_and_the_checked_ip_is_connected_to(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = served(plain(RAY))
    resolve, asked = answering("127.0.0.1", "127.0.0.2")
    connected: list[Any] = []
    real = socket.create_connection
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(
        socket, "create_connection", lambda to, *a, **k: connected.append(to) or real_to(real, to, a, k)
    )
    ray = RayRest(f"http://rebinds.example:{server.port}", reach=LOOPBACK, timeout=LONG)
    assert ray.version()["ray_version"] == "2.60.0"
    assert [host for host in asked if host == "rebinds.example"] == ["rebinds.example"]
    assert connected == [("127.0.0.1", server.port)]
    assert server.header("Host") == [f"rebinds.example:{server.port}"]


def real_to(real: Any, to: Any, args: Any, kwargs: Any) -> socket.socket:
    """Connect by the IP address, without the resolver that the test replaced."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.settimeout(LONG)
    made.connect(to)
    return made


@pytest.mark.parametrize("ip", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"])
@pytest.mark.parametrize("placed", [True, False])
def test_a_name_that_resolves_to_a_metadata_address_is_refused_even_if_an_admin_placed_it(
    monkeypatch: pytest.MonkeyPatch, ip: str, placed: bool
) -> None:
    resolve, _ = answering(ip)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    ray = RayRest("http://harmless.example:8265", reach=Reach(AllowList(["harmless.example"]), placed=placed))
    with pytest.raises(Unavailable, match="link-local, a cloud's metadata service") as caught:
        ray.version()
    assert caught.value.fields["reason"] == NOT_ALLOWED


def test_a_name_that_later_resolves_to_another_network_is_refused_then(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = served(plain(RAY))
    resolve, _ = answering("127.0.0.1", "10.0.0.5")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", lambda to, *a, **k: real_to(None, to, a, k))
    ray = RayRest(f"http://rebinds.example:{server.port}", reach=LOOPBACK, timeout=LONG)
    assert ray.version()
    with pytest.raises(Unavailable, match=r"10\.0\.0\.5 is not among the addresses"):
        ray.version()


def test_a_resolver_that_hangs_does_not_block_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(LONG) or [])
    began = time.monotonic()
    with pytest.raises(Unavailable, match="was not resolved within 1 s"):
        RayRest("http://slow.example:8265", reach=LOOPBACK, timeout=1.0).version()
    assert time.monotonic() - began < LONG / 2


def test_an_unknown_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unavailable, match=r"The name 'none.example' can't be resolved: Name or service not known"):
        RayRest("http://none.example:8265", reach=LOOPBACK, timeout=LONG).version()
