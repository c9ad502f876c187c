"""URIs after a move of the storage root, in JSON, rows and protobuf messages; all other bytes stay unchanged."""

from __future__ import annotations

import json

import pytest

from rayplane.client.backup.moved import Move
from tests.unit.client.backup import homes

MOVE = Move.between("file:///old/my%20root", "file:///new/root/")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("file:///old/my%20root", "file:///new/root"),
        ("file:///old/my%20root/growth/x", "file:///new/root/growth/x"),
        ("/old/my root/growth/feast/online.db", "/new/root/growth/feast/online.db"),
        ("file:///old/my%20rooted/x", "file:///old/my%20rooted/x"),
        ("see /old/my root/x", "see /old/my root/x"),
    ],
)
def test_a_string_that_is_the_root_or_below_it_is_moved(before: str, after: str) -> None:
    assert MOVE.text(before) == after


def test_a_document_keeps_its_order_and_its_numbers() -> None:
    text = '{"z": [1, "file:///old/my%20root/a"], "big": 4611686018427387905, "tiny": 1e-17, "a": {"b": null}}'
    assert MOVE.json_text(text) == text.replace("old/my%20root", "new/root")


def test_a_document_without_a_uri_of_the_root_keeps_every_byte() -> None:
    text = '{"a":1.0e0,  "b": "file:///elsewhere"}'
    assert MOVE.json_text(text) == text


def test_only_the_json_documents_of_a_row_are_rewritten() -> None:
    row = ["file:///old/my%20root/x", json.dumps({"uri": "file:///old/my%20root/x"}), None, 3]
    moved = json.loads(MOVE.line(json.dumps(row).encode(), [1, 2]))
    assert moved == ["file:///old/my%20root/x", '{"uri": "file:///new/root/x"}', None, 3]


def test_nested_strings_of_a_message_are_rewritten_and_all_else_is_unchanged() -> None:
    before, after = homes.view("/old/my root/growth/x"), homes.view("/new/root/growth/x")
    moved = MOVE.message(before)
    # A description has the root in the middle of its text: it stays unchanged.
    assert moved == homes.view("/new/root/growth/x", made_from="/old/my root/growth/x")
    assert moved != after
    assert homes.source_of(moved) == "/new/root/growth/x/part-*.parquet"
    other = homes.view("/elsewhere/x")
    assert MOVE.message(other) == other


@pytest.mark.parametrize("junk", [b"", b"\xff" * 20, b"/old/my root", b"x /old/my root/", b"\x0a\x7f/old/my root/"])
def test_bytes_that_are_no_message_raise_nothing(junk: bytes) -> None:
    assert MOVE.message(junk) == (b"/new/root" if junk == b"/old/my root" else junk)
