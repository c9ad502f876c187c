"""Rewrite URIs and paths of a storage root that a restore puts elsewhere, in stored JSON and protobuf. Pure.

Dataset versions, events and logs have such URIs in JSON documents; Feast's registry has them in protobuf messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

_DELIMITED = 2
"""Protobuf's wire type for length-delimited fields: strings, bytes and messages."""


@dataclass(frozen=True)
class Move:
    """A move of a storage root: pairs of (old, new) for its URI and, if it has one, its path on the host."""

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def between(cls, old: str, new: str) -> Move:
        """The move from one root URI to another."""
        pairs = [(old.rstrip("/"), new.rstrip("/"))]
        parts = [urlsplit(uri) for uri in pairs[0]]
        if all(part.scheme == "file" for part in parts):
            pairs.append((unquote(parts[0].path), unquote(parts[1].path)))
        return cls(tuple(pairs))

    @property
    def is_none(self) -> bool:
        """True if the root stays where it was."""
        old, new = self.pairs[0]
        return old == new

    def text(self, value: str) -> str:
        """The string with the old root at its start replaced by the new one; any other string unchanged."""
        for old, new in self.pairs:
            if value == old or value.startswith(f"{old}/"):
                return new + value[len(old) :]
        return value

    def json_text(self, text: str) -> str:
        """A JSON document with ``text`` applied to every string; the same bytes if no string refers to the root."""
        if not any(json.dumps(old)[1:-1] in text or old in text for old, _ in self.pairs):
            return text
        return json.dumps(self._value(json.loads(text)))

    def line(self, line: bytes, columns: list[int]) -> bytes:
        """A row of a table's file with the JSON documents in these columns rewritten."""
        values = json.loads(line)
        for column in columns:
            if values[column] is not None:
                values[column] = self.json_text(values[column])
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"

    def message(self, data: bytes) -> bytes:
        """A protobuf message of any type with ``text`` applied to every string.

        A string that begins with a root can't be mistaken for a nested message: no field's key begins with 'f' or '/'.
        """
        if not any(old.encode() in data for old, _ in self.pairs):
            return data
        for old, new in self.pairs:
            if data == old.encode() or data.startswith(f"{old}/".encode()):
                return new.encode() + data[len(old.encode()) :]
        try:
            fields = list(_fields(data))
        except ValueError:
            return data  # a string that has the root in its middle
        return b"".join(_field(key, self.message(value) if key & 7 == _DELIMITED else value) for key, value in fields)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            return {key: self._value(item) for key, item in value.items()}
        return value


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(key, encoded value without its length prefix) of each field; raises ValueError if ``data`` is no message."""
    at = 0
    while at < len(data):
        key, at = _decode_varint(data, at)
        wire = key & 7
        if not key >> 3:
            raise ValueError("no field has the number 0")
        if wire == _DELIMITED:
            length, at = _decode_varint(data, at)
            end = at + length
        elif wire == 0:
            _, end = _decode_varint(data, at)
        elif wire in (1, 5):
            end = at + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"no field has the wire type {wire}")
        if end > len(data):
            raise ValueError("a field goes on after the end")
        yield key, data[at:end]
        at = end


def _field(key: int, value: bytes) -> bytes:
    return _encode_varint(key) + (_encode_varint(len(value)) if key & 7 == _DELIMITED else b"") + value


def _decode_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number goes on after the end")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
