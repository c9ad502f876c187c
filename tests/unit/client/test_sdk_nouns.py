"""The client's attributes for the nouns: made by the table, with a job's log followed by the client's clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

import httpx
import pytest

from rayplane.client import sdk
from rayplane.client.sdk import Client
from rayplane.client.sdk import client as module
from rayplane.errors import Unavailable
from rayplane.nouns import NOUNS
from rayplane.nouns.noun_type import AnyNoun, NounType
from tests.support.clock import FakeClock


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.singular)
def test_each_noun_has_an_attribute_of_the_type_that_editors_are_told(client: Client, noun: NounType) -> None:
    attribute = client.noun(noun)
    assert attribute is getattr(client, noun.plural)
    assert attribute.type is noun
    assert type(attribute) is get_type_hints(Client)[noun.plural]


def test_a_row_of_the_table_alone_gives_a_noun_its_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    code = {"spec_code": "rayplane.nouns.base:Spec", "status_code": "rayplane.nouns.base:Status"}
    gadget: AnyNoun = NounType(kind="Gadget", singular="gadget", plural="gadgets", help="Things.", **code)
    monkeypatch.setattr(module, "NOUNS", (*NOUNS, gadget))
    client = Client("http://127.0.0.1:1")
    assert type(client.noun(gadget)) is sdk.Noun
    assert client.noun(gadget).type is gadget


class Log:
    """A gateway that answers requests for a log with each of some pieces, and then that it is complete."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces, self.offset = list(pieces), 0
        self.asked: list[Mapping[str, Any]] = []

    def request(self, method: str, path: str, *, params: Mapping[str, Any]) -> httpx.Response:
        assert (method, path) == ("GET", "/v1/teams/growth/jobs/train/logs")
        self.asked.append(params)
        complete = not self.pieces
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, Exception):
            raise piece
        self.offset += len(piece)
        headers = {"X-Next-Offset": str(self.offset), "X-Log-Complete": "true" if complete else "false"}
        return httpx.Response(200, content=piece, headers=headers)


def test_a_followed_log_waits_for_a_gateway_that_is_away(
    client: Client, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(b"gr\xc3", *[Unavailable("It is away.")] * 100, b"", b"\xbc\xc3\x9fe\n")
    monkeypatch.setattr(client, "request", log.request)
    assert list(client.jobs.logs("growth", "train")) == ["gr", "üße\n"]
    assert [params["offset"] for params in log.asked] == [0, *[3] * 102, 8]
    assert clock.sleeps == [*[1.0] * 100, 0.5]


def test_a_followed_log_is_given_up_when_the_gateway_stays_away_for_longer_than_its_patience(
    client: Client, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "request", Log(b"a", *[Unavailable("It is away.")] * 100).request)
    read: list[str] = []
    with pytest.raises(Unavailable):
        read.extend(client.jobs.logs("growth", "train", patience=30.0))
    assert 30 < clock.now() <= 32


def test_a_log_that_is_not_followed_waits_for_nothing(
    client: Client, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "request", Log(b"a", Unavailable("It is away.")).request)
    with pytest.raises(Unavailable):
        list(client.jobs.logs("growth", "train", follow=False))
    assert clock.sleeps == []
