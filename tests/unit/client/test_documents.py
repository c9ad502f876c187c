"""YAML with duplicate keys, aliases that expand, and other mistakes: each error names file and line."""

from __future__ import annotations

import pytest

from rayplane.client import documents
from rayplane.client.sdk import read_documents
from rayplane.errors import InvalidSpec


def refusal(text: str) -> str:
    with pytest.raises(InvalidSpec) as refused:
        documents.load(text, "a.yaml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Team\nspec: {}\nkind: Job\n", "key 'kind' of line 1 is there again, in line 3"),
        ("a: 1\nspec:\n  x: {b: 1, b: 2}\n", "key 'b' of line 3 is there again, in line 3"),
        ("- {'b': 1,\n   \"b\": 2}\n", "key 'b' of line 1 is there again, in line 2"),
        ("a: 1\n---\nb: 1\nc: 1\nb: 2\n", "key 'b' of line 3 is there again, in line 5"),
    ],
)
def test_a_duplicate_key_is_refused_with_both_lines(text: str, message: str) -> None:
    assert refusal(text).startswith(f"a.yaml: not YAML: {message}.")


def test_a_key_that_is_merged_in_may_be_overridden() -> None:
    text = "base: &base {x: 1, y: 2}\nwide: &wide {<<: *base, x: 3}\ndeep: {in: {<<: *wide, y: 4}}\n"
    (document,) = documents.load(text, "a.yaml")
    assert document["wide"] == {"x": 3, "y": 2}
    assert document["deep"] == {"in": {"x": 3, "y": 4}}


def test_the_same_key_in_other_mappings_or_of_another_type_is_no_duplicate() -> None:
    assert documents.load("a: {b: 1}\nb: {a: 1}\n---\n'1': text\n1: number\n", "a.yaml") == [
        {"a": {"b": 1}, "b": {"a": 1}},
        {"1": "text", 1: "number"},
    ]


def bomb(inner: str) -> str:
    lines = [f"a0: &a0 {inner}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb("x"), bomb("{k: v}"), f"all: &all [*all, {{{bomb('[]')}}}]".replace("\n", ", ")])
def test_aliases_that_expand_to_billions_of_values_are_refused_before_they_are_expanded(text: str) -> None:
    assert "it holds more than 100000 values once its aliases are written out, in line" in refusal(text)


def test_merged_mappings_that_grow_are_refused() -> None:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    assert "it holds more than 100000 values" in refusal("\n".join(lines))


def test_a_few_aliases_are_accepted() -> None:
    text = "env: &env {A: '1'}\nsteps: [{env: *env}, {env: *env}]\n"
    assert documents.load(text, "a.yaml") == [{"env": {"A": "1"}, "steps": [{"env": {"A": "1"}}] * 2}]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1,\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\nb: *nothing\n", 2),
        ("a: 1\nb: 2013-02-30\n", 2),
        ("a: 1\n\nb: !!bool x\n", 3),
        ("a: 1\nb: !!timestamp x\n", 2),
        ("a: 1\nb: !!python/name:os.system ''\n", 2),
        ("a: 1\nb: " + "1" * 5000 + "\n", 2),
        ("a: 1\nb: \x07\n", 2),
        ("a: 1\nb: " + "[" * 101, 2),
        ("a: 1\nb: {[1]: 2}\n", 2),
    ],
)
def test_an_error_names_file_and_line(text: str, line: int) -> None:
    message = refusal(text)
    assert message.startswith("a.yaml: not YAML: ")
    assert f", in line {line}." in message


def test_a_label_with_terminal_control_characters_is_refused() -> None:
    text = 'kind: Team\nmetadata: {name: growth, labels: {"a": "\\e]0;x\\a"}}\n'
    with pytest.raises(InvalidSpec, match=r"a\.yaml\[0\]\.metadata: label .* holds U\+001B") as refused:
        read_documents(text, "a.yaml")
    assert "\x1b" not in str(refused.value)
