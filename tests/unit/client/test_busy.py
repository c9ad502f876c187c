"""The SDK asks a busy gateway again when it wants to be asked, for a bounded time, with the same idempotency key."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from rayplane.client.sdk import Client
from rayplane.client.sdk.transport import BUSY_PATIENCE
from rayplane.errors import TooMany, Unavailable
from tests.support.clock import FakeClock

BUSY = {"type": "urn:rayplane:problem:unavailable", "title": "Unavailable", "status": 503, "detail": "It is busy."}


class Gateway:
    """Answers each request with the next of some answers, and records the requests."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        self.requests.append((method, options))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer.request = httpx.Request(method, url)
        return answer


def busy(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={**BUSY, "status": status}, headers=headers)


def connect(client: Client, monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    monkeypatch.setattr(client, "_connection", lambda: gateway)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_gateway_is_asked_again_with_the_same_key(
    client: Client, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    again = {"Retry-After": "0"}
    gateway = Gateway(busy(status, **again), busy(status, **again), httpx.Response(200, json={}))
    connect(client, monkeypatch, gateway)
    assert client.request("POST", "/v1/teams/growth/jobs", json_body={}).status_code == 200
    keys = {options["headers"]["Idempotency-Key"] for _, options in gateway.requests}
    assert (len(gateway.requests), len(keys)) == (3, 1)


@pytest.mark.parametrize("after", ["0", "7"])
def test_a_gateway_that_stays_busy_is_given_up_in_bounded_time(
    client: Client, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    gateway = Gateway(busy(503, **{"Retry-After": after}))
    connect(client, monkeypatch, gateway)
    with pytest.raises(Unavailable, match="It is busy"):
        client.request("GET", "/v1/teams")
    assert len(gateway.requests) > 1
    assert BUSY_PATIENCE - 7 <= clock.now() <= BUSY_PATIENCE


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": "3600"}])
def test_what_is_not_merely_busy_is_told_at_once(
    client: Client, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    gateway = Gateway(busy(503, **headers))
    connect(client, monkeypatch, gateway)
    with pytest.raises(Unavailable):
        client.request("GET", "/v1/teams")
    assert len(gateway.requests) == 1


def test_an_upload_is_not_sent_again_by_itself(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = httpx.Response(
        429,
        json={**BUSY, "type": "urn:rayplane:problem:too-many", "status": 429},
        headers={"Retry-After": "0"},
    )
    gateway = Gateway(answer)
    connect(client, monkeypatch, gateway)
    with pytest.raises(TooMany):
        client.request("PUT", "/v1/teams/growth/packages/x", content=b"zip")
    assert len(gateway.requests) == 1
