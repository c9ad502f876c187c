"""Find and escape characters that control a terminal or change the direction of text. Pure."""

from __future__ import annotations

import io
import re

_CONTROL = "\x00-\x1f\x7f-\x9f"
# Bidirectional characters change the direction of the text after them: `a\u202egpj.exe` reads like a picture's name.
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
# The start of what the next piece may complete to a colour sequence; a longer start cannot become one.
_COLOUR_BEGUN = re.compile(r"\x1b(?:\[[0-9;:]{0,60})?\Z")


def check_plain(value: str) -> str:
    """Return ``value`` unchanged; raise ValueError naming its first control or bidirectional character, if any."""
    match = _UNSAFE.search(value)
    if match:
        raise ValueError(
            f"'{printable(value)}' holds U+{ord(match[0]):04X}, a control or bidirectional character: leave it out"
        )
    return value


def printable(text: str, *, lines: bool = False) -> str:
    """Escape each control character, bidirectional character and lone surrogate of ``text``, such as ``\\x1b``.

    With ``lines``, line feeds and tabs stay as they are.
    """
    return (_UNPRINTABLE_IN_LINES if lines else _UNPRINTABLE).sub(_written, text)


class PrintableStream:
    """Make a log that arrives in pieces safe for a terminal.

    Colours are removed, each carriage return becomes a new line, all other control and bidirectional characters are
    escaped. A colour sequence may be cut anywhere between two pieces.
    """

    def __init__(self) -> None:
        self._newlines = io.IncrementalNewlineDecoder(None, translate=True)
        self._begun = ""

    def add(self, piece: str) -> str:
        """Add a piece and return the text that can be printed now."""
        text = self._begun + self._newlines.decode(piece)
        begun = _COLOUR_BEGUN.search(text)
        self._begun = begun[0] if begun else ""
        return _cleaned(text[: len(text) - len(self._begun)])

    def end(self) -> str:
        """Return the rest, which ``add`` kept back in case another piece completed it."""
        rest = self._begun + self._newlines.decode("", final=True)
        self._begun = ""
        return _cleaned(rest)


def _cleaned(text: str) -> str:
    return printable(_COLOUR.sub("", text), lines=True)


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    return {10: r"\n", 13: r"\r", 9: r"\t"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def sql_name(name: str) -> str:
    """A name as an SQL identifier, in quotation marks."""
    return '"' + name.replace('"', '""') + '"'
