"""Files of rotating secrets: the key ring, replaced tokens, notes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane import rotation
from rayplane.errors import Conflict, InvalidInput
from rayplane.rotation import Former, Ring
from rayplane.settings import Home, write_secret

KEY = "k" * 43


def test_a_key_alone_is_a_ring() -> None:
    assert rotation.parse_ring(f"{KEY}\n") == Ring(KEY)


@given(st.lists(st.integers(0, 2**40), max_size=rotation.REMEMBERED))
def test_a_ring_is_read_as_it_was_written(untils: list[int]) -> None:
    ring = Ring(KEY, tuple(Former(f"former-{number}", float(until)) for number, until in enumerate(untils)))
    assert rotation.parse_ring(ring.text) == ring


def test_each_rotation_keeps_the_former_key_until_there_are_too_many() -> None:
    ring = Ring("key-of-the-start")
    for number in range(rotation.REMEMBERED + 3):
        ring = ring.rotated(f"key-number-{number:010}", until=100.0 * (number + 1))
    assert len(ring.former) == rotation.REMEMBERED
    assert ring.former[0] == Former(f"key-number-{rotation.REMEMBERED + 1:010}", 100.0 * (rotation.REMEMBERED + 3))
    assert "key-of-the-start" not in ring.text


def test_a_rotation_without_grace_also_ends_the_grace_of_earlier_keys() -> None:
    ring = Ring("first").rotated("second", until=9000).rotated("third", until=100)
    assert ring.former == (Former("second", 100), Former("first", 100))


@pytest.mark.parametrize("text", ["short", f"{KEY}\nno-time", f"{KEY}\nkey -5", f"{KEY}\nkey soon"])
def test_the_error_for_a_damaged_ring_does_not_show_its_keys(tmp_path: Path, text: str) -> None:
    write_secret(tmp_path / "signing.key", text)
    with pytest.raises(InvalidInput, match="holds no ring of keys") as raised:
        rotation.read_ring(tmp_path / "signing.key")
    assert KEY not in str(raised.value)


def test_a_replaced_token_is_recorded_only_by_its_digest(tmp_path: Path) -> None:
    path, history = tmp_path / "token", tmp_path / "replaced.json"
    write_secret(path, "the-first-token\n")
    rotation.replace_token(path, "the-second-token", history=history, at=5.0)
    (replaced,) = rotation.read_replaced(history)
    assert replaced.is_of("the-first-token")
    assert not replaced.is_of("the-second-token")
    assert "the-first-token" not in history.read_text()
    assert path.read_text() == "the-second-token\n"
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, history)] == [0o600, 0o600]


def test_notes_are_read_in_the_order_of_the_rotations_without_damaged_ones(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for at, secret in ((20.0, "metrics"), (3.0, "signing")):
        rotation.write_note(home, secret, {"team": "growth"}, at=at)
    write_secret(home.secrets / "rotations" / "1.json", "{")
    assert [note.secret for _, note in rotation.read_notes(home)] == ["signing", "metrics"]


def test_a_second_rotation_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with rotation.locked(Home(tmp_path)), pytest.raises(Conflict), rotation.locked(Home(tmp_path), patience=0.2):
        pass
