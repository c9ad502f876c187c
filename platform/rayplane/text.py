"""Characters that command a terminal or turn around what is read: find them, and write them out visibly. Pure."""

from __future__ import annotations

import io
import re

_CONTROL = "\x00-\x1f\x7f-\x9f"
# What changes the direction of the text after it, so that `a\u202egpj.exe` reads as if it were a picture.
_DIRECTION = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINES = "\u2028\u2029"
_HALVES = "\ud800-\udfff"

_UNSAFE = re.compile(f"[{_CONTROL}{_DIRECTION}{_LINES}]")
UNSAFE = "".join(c if c == "-" else f"\\u{ord(c):04x}" for c in f"{_CONTROL}{_DIRECTION}{_LINES}")
"""The characters that ``check_plain`` refuses, as the inside of a class that Python and JSON Schema read alike."""
PLAIN = f"^[^{UNSAFE}]*$"
"""The pattern of a text that ``check_plain`` lets through."""
_UNPRINTABLE = re.compile(f"[{_CONTROL}{_DIRECTION}{_LINES}{_HALVES}]")
_UNPRINTABLE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_DIRECTION}{_LINES}{_HALVES}]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# What may become the sequence of a colour with what comes next; a longer one is none.
_COLOUR_BEGUN = re.compile(r"\x1b(?:\[[0-9;:]{0,60})?\Z")


def check_plain(value: str) -> str:
    """A text without control and bidirectional characters; raises ValueError that names the first one."""
    match = _UNSAFE.search(value)
    if match:
        raise ValueError(
            f"'{printable(value)}' holds U+{ord(match[0]):04X}, a control or bidirectional character: leave it out"
        )
    return value


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` with each control and bidirectional character, and half of a surrogate pair, written as ``\\x1b`` is.

    ``lines`` lets line feeds and tabs through.
    """
    return (_UNPRINTABLE_IN_LINES if lines else _UNPRINTABLE).sub(_written, text)


class PrintableStream:
    """A log in pieces, as a terminal may be given it: colours left out, each carriage return a new line, all other
    control and bidirectional characters written out. A sequence may be cut anywhere between two pieces."""

    def __init__(self) -> None:
        self._newlines = io.IncrementalNewlineDecoder(None, translate=True)
        self._begun = ""

    def add(self, piece: str) -> str:
        """What is to be printed now."""
        text = self._begun + self._newlines.decode(piece)
        begun = _COLOUR_BEGUN.search(text)
        self._begun = begun[0] if begun else ""
        return _cleaned(text[: len(text) - len(self._begun)])

    def end(self) -> str:
        """What was kept back for a piece that will not come."""
        rest = self._begun + self._newlines.decode("", final=True)
        self._begun = ""
        return _cleaned(rest)


def _cleaned(text: str) -> str:
    return printable(_COLOUR.sub("", text), lines=True)


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    return {10: r"\n", 13: r"\r", 9: r"\t"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
