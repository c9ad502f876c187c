"""Places of a storage root as they are at its new URI, in what was kept by the old one. Pure.

Dataset versions, events and logs name their place by URI in JSON; Feast's registry does in protobuf messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

_LENGTHS = 2
"""Protobuf's wire type of strings, bytes and messages."""


@dataclass(frozen=True)
class Move:
    """From one storage root to another: its URI and, where it has one, its path on the host."""

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def between(cls, old: str, new: str) -> Move:
        """The move from one root URI to another."""
        pairs = [(old.rstrip("/"), new.rstrip("/"))]
        parts = [urlsplit(uri) for uri in pairs[0]]
        if all(part.scheme == "file" for part in parts):
            pairs.append((unquote(parts[0].path), unquote(parts[1].path)))
        return cls(tuple(pairs))

    def text(self, value: str) -> str:
        """A string as it is after the move: one that is the old root or begins with it."""
        for old, new in self.pairs:
            if value == old or value.startswith(f"{old}/"):
                return new + value[len(old) :]
        return value

    def json_text(self, text: str) -> str:
        """A JSON document's text, every string in it moved; unchanged to the byte where none is."""
        if not any(json.dumps(old)[1:-1] in text or old in text for old, _ in self.pairs):
            return text
        return json.dumps(self._value(json.loads(text)))

    def line(self, line: bytes, places: list[int]) -> bytes:
        """A row of a table's file, the documents at these places moved."""
        values = json.loads(line)
        for place in places:
            if values[place] is not None:
                values[place] = self.json_text(values[place])
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"

    def message(self, data: bytes) -> bytes:
        """A protobuf message of any type, every string in it moved.

        No text that begins as a root does is also a message: neither 'f' nor '/' begins a field.
        """
        if not any(old.encode() in data for old, _ in self.pairs):
            return data
        for old, new in self.pairs:
            if data == old.encode() or data.startswith(f"{old}/".encode()):
                return new.encode() + data[len(old.encode()) :]
        try:
            fields = list(_fields(data))
        except ValueError:
            return data  # text with the root in its midst
        return b"".join(_field(key, self.message(value) if key & 7 == _LENGTHS else value) for key, value in fields)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            return {key: self._value(item) for key, item in value.items()}
        return value


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(key, value as it is on the wire, without its length) of each field; ValueError for what is no message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if not key >> 3:
            raise ValueError("no field has the number 0")
        if wire == _LENGTHS:
            length, at = _varint(data, at)
            end = at + length
        elif wire == 0:
            _, end = _varint(data, at)
        elif wire in (1, 5):
            end = at + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"no field has the wire type {wire}")
        if end > len(data):
            raise ValueError("a field goes on after the end")
        yield key, data[at:end]
        at = end


def _field(key: int, value: bytes) -> bytes:
    return _number(key) + (_number(len(value)) if key & 7 == _LENGTHS else b"") + value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number goes on after the end")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _number(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
