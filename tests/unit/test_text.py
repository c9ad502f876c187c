"""Control and bidirectional characters: refused in names, escaped for a terminal."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.text import PrintableStream, check_plain, printable

ANY = st.text(alphabet=st.characters(exclude_categories=[]), max_size=40)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("bad", ["\x00", "\n", "\x1b", "\x7f", "\x9b", "\u200f", "\u202e", "\u2066", "\u2069"])
def test_a_name_with_a_control_character_is_refused_naming_its_code_point(bad: str) -> None:
    with pytest.raises(ValueError, match=f"holds U\\+{ord(bad):04X}, a control or bidirectional character"):
        check_plain(f"a{bad}b")


@pytest.mark.parametrize("good", ["", "flights", "Größe 5 µm", "日本語", "عربي", "e\u0301"])
def test_words_of_any_language_are_accepted(good: str) -> None:
    assert check_plain(good) == printable(good) == good


def test_characters_that_control_a_terminal_are_escaped() -> None:
    assert printable("\x1b]52;c;eA==\x07") == r"\x1b]52;c;eA==\x07"
    assert printable("a\u202egpj.exe\r\n\x85") == r"a\u202egpj.exe\r\n\x85"
    assert printable("a\tb\nc\r", lines=True) == "a\tb\nc\\r"


@settings(deadline=None)
@given(ANY)
def test_printable_leaves_no_character_that_controls_a_terminal(text: str) -> None:
    assert OBEYED.search(printable(text, lines=True)) is None
    assert "\n" not in printable(text)
    assert "\t" not in printable(text)


def streamed(*pieces: str) -> str:
    stream = PrintableStream()
    return "".join([*map(stream.add, pieces), stream.end()])


def test_a_log_loses_its_colours_and_each_carriage_return_becomes_a_new_line() -> None:
    assert streamed("\x1b[36m(train pid=7)\x1b[0m 1%\r2%\r\ndone\n") == "(train pid=7) 1%\n2%\ndone\n"
    assert streamed("\x1b[2J\x1b]0;title\x07") == r"\x1b[2J\x1b]0;title\x07"
    assert streamed("cut \x1b[3") == r"cut \x1b[3"


@settings(deadline=None)
@given(ANY, st.lists(st.integers(0, 40), max_size=4))
def test_a_log_reads_the_same_at_whichever_points_it_is_cut(text: str, cuts: list[int]) -> None:
    text = f"\x1b[1;32mok\x1b[0m\r{text}\r\n"
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(ends)]
    assert streamed(*pieces) == streamed(text)
    assert OBEYED.search(streamed(text)) is None
