"""The section on extension in CONTRIBUTING.md: each family has an interface, and an example that a test executes."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from rayplane import plugins
from tests.support.distributions import THIRD_PARTY

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "platform" / "rayplane"
TOPS = (PACKAGE, PACKAGE / "gateway")
"""Folders below which the section names files, as docs/architecture.md does."""
_ROW = re.compile(
    r"^\| `(\w+)` \| [^|]+ \| the `(\w+)` of `([\w/.]+)` \| \[[\w.]+\]\(([\w/.]+)\) \| [^|]+ \|$", re.MULTILINE
)


def section() -> str:
    """The text of the section."""
    return (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Extend\n")[2].partition("\n## ")[0]


def rows() -> dict[str, tuple[str, str, str]]:
    """Family -> its interface, the interface's module, and the path of its example."""
    return {family: (interface, module, example) for family, interface, module, example in _ROW.findall(section())}


def test_each_family_has_a_row_and_a_plugin_of_the_third_party(third_party: Mapping[str, Mapping[str, str]]) -> None:
    assert set(rows()) == set(plugins.TABLE) == set(third_party)


@pytest.mark.parametrize("family", plugins.TABLE)
def test_the_interface_of_a_family_is_where_its_row_says(family: str) -> None:
    interface, module, _ = rows()[family]
    tree = ast.parse((PACKAGE / module).read_text())
    assert interface in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("family", plugins.TABLE)
def test_the_example_of_a_family_is_the_plugin_that_is_loaded(
    family: str, third_party: Mapping[str, Mapping[str, str]]
) -> None:
    ((name, code),) = third_party[family].items()
    example = ROOT / rows()[family][2]
    assert example == THIRD_PARTY / f"{code.partition(':')[0].replace('.', '/')}.py"
    assert f"class {plugins.load(family, name).__name__}" in example.read_text()


def test_the_code_that_the_section_shows_is_that_of_the_third_party() -> None:
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", section(), re.MULTILINE | re.DOTALL))
    assert set(blocks) == {"python", "toml"}
    assert blocks["python"] in (THIRD_PARTY / "acme_rayplane" / "policy.py").read_text()
    assert blocks["toml"] in (THIRD_PARTY / "pyproject.toml").read_text()


def test_the_places_of_a_noun_that_the_section_names_are_there() -> None:
    text = section().partition("A **noun**")[2]
    places = [path for path in re.findall(r"`([\w/<>]+\.py)`", text) if "<noun>" not in path]
    folders = {path.partition("<noun>")[0] for path in re.findall(r"`([\w/<>]+\.py)`", text) if "<noun>" in path}
    assert len(folders) >= 5
    missing = [place for place in (*places, *folders) if not any((top / place).exists() for top in TOPS)]
    assert missing == []
