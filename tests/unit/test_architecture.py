"""The walk in docs/architecture.md names functions that are there, and its picture of a job the same stops."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_STOP = re.compile(r"`([\w/]+\.py): ([\w.]+)`")
_IN_THE_PICTURE = re.compile(r"\bs(\d+)\[\"(\d+) ([\w/]+\.py): ([\w.]+)\"\]")
_IN_THE_LIST = re.compile(r"^(\d+)\. `([\w/]+\.py): ([\w.]+)`", re.MULTILINE)


def _walk() -> str:
    text = (ROOT / "docs" / "architecture.md").read_text()
    return text.partition("## A walk through the code")[2].partition("\n## ")[0]


def _names(path: Path) -> set[str]:
    """Functions of a module, and ``Class.method`` of its classes."""
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = {node.name for node in tree.body if isinstance(node, functions)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, functions)}
    return names


def test_each_function_of_the_walk_is_where_it_says() -> None:
    stops = _STOP.findall(_walk())
    assert len(stops) >= 20
    missing = [f"{module}: {name}" for module, name in stops if name not in _names(ROOT / "platform/rayplane" / module)]
    assert missing == []


def test_a_job_passes_ten_stops_at_most() -> None:
    assert len(re.findall(r"^\d+\. ", _walk(), flags=re.MULTILINE)) <= 10


def test_the_picture_of_a_job_has_the_stops_of_the_list() -> None:
    picture = _walk().partition("```mermaid\n")[2].partition("```")[0]
    stops = {number: (module, name) for _, number, module, name in _IN_THE_PICTURE.findall(picture)}
    assert len(stops) == 10
    assert stops == {number: (module, name) for number, module, name in _IN_THE_LIST.findall(_walk())}


def test_each_arrow_of_the_picture_begins_and_ends_at_a_part_of_it() -> None:
    picture = _walk().partition("```mermaid\n")[2].partition("```")[0]
    parts = set(re.findall(r"(\w+)\[", picture))
    arrows = re.findall(r"(\w+)(?:\[[^\]]*\])? -->(?:\|[^|]*\|)? (?=(\w+))", picture)
    assert len(arrows) == picture.count("-->")
    assert {end for arrow in arrows for end in arrow} <= parts
