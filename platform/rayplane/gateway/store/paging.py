"""Pages of a list and their opaque cursors. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Generic, TypeVar

from rayplane.errors import InvalidInput
from rayplane.nouns.base import check_json

MAX_LIMIT = 1000
CURSOR, LONGEST_CURSOR = "^[A-Za-z0-9_-]+$", 1000
"""The pattern of a cursor, and its maximum length."""
T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and the cursor for the page after them (None at the end)."""

    items: list[T]
    next_cursor: str | None = None


def check_limit(limit: int) -> int:
    """``limit``, if it is from 1 to MAX_LIMIT; else raises InvalidInput."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit is {limit}.", remedy=f"Ask for 1 to {MAX_LIMIT} items at a time.")
    return limit


def encode_cursor(position: list[str] | list[int]) -> str:
    """An opaque cursor for a position: the sort key of the last item of a page."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, kind: type[str] | type[int], size: int) -> list[str] | list[int]:
    """The position that a cursor stands for: ``size`` values of ``kind``; raises InvalidInput for anything else."""
    if len(cursor) > LONGEST_CURSOR or not re.fullmatch(CURSOR, cursor):
        raise no_cursor(cursor)
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        position = json.loads(raw)
        check_json(position)  # JSON can express a lone surrogate, which no column can store
    except (ValueError, binascii.Error, RecursionError) as exc:
        raise no_cursor(cursor) from exc
    if not isinstance(position, list) or len(position) != size or any(type(part) is not kind for part in position):
        raise no_cursor(cursor)
    if any(isinstance(part, int) and abs(part) >= 2**63 for part in position):
        raise no_cursor(cursor)  # a number that no column can store
    return position


def no_cursor(cursor: str) -> InvalidInput:
    """The error for a text that is not a cursor of the requested list."""
    return InvalidInput(
        f"'{cursor[:60]}' is not a cursor of this list.", remedy="Send the next_cursor of an earlier answer."
    )
