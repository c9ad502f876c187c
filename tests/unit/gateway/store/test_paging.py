"""Cursors: every position round-trips, every other text is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayplane.errors import InvalidInput
from rayplane.gateway.store.paging import LONGEST_CURSOR, decode_cursor, encode_cursor


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_the_cursor_of_each_object_decodes_to_its_position(created_at: datetime, uid: UUID) -> None:
    position = [created_at.isoformat(), str(uid)]
    assert decode_cursor(encode_cursor(position), str, 2) == position


@given(st.lists(st.text(), min_size=2, max_size=2))
@example(["\U0001f600" * 100, ""])
def test_a_cursor_of_any_texts_decodes_unless_it_is_longer_than_any_of_an_object(position: list[str]) -> None:
    cursor = encode_cursor(position)
    if len(cursor) <= LONGEST_CURSOR:
        assert decode_cursor(cursor, str, 2) == position
    else:
        with pytest.raises(InvalidInput):
            decode_cursor(cursor, str, 2)


@given(st.integers())
def test_a_numeric_cursor_decodes_if_a_column_can_store_the_number(number: int) -> None:
    cursor = encode_cursor([number])
    if abs(number) < 2**63:
        assert decode_cursor(cursor, int, 1) == [number]
    else:
        with pytest.raises(InvalidInput):
            decode_cursor(cursor, int, 1)


@given(st.text())
def test_any_other_text_is_refused_and_never_crashes(text: str) -> None:
    try:
        position = decode_cursor(text, str, 2)
    except InvalidInput:
        return
    assert all(isinstance(part, str) for part in position)


@pytest.mark.parametrize(("kind", "size"), [(int, 2), (str, 1), (str, 3)])
def test_a_cursor_of_another_list_is_refused(kind: type[int] | type[str], size: int) -> None:
    with pytest.raises(InvalidInput):
        decode_cursor(encode_cursor(["a", "b"]), kind, size)
