"""List places in code that are hard to read for a newcomer. A report for reading; it gates nothing.

python -m tests.support.style [FOLDER ...] [-o json]

There are four kinds, each with its share and that of well-written libraries of the same size (kopf, httpx):
docstrings that open with a question word, pronouns without an actor in docstrings and messages, long functions, and
locals whose name says nothing.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["docstring opens with a question word", "pronoun without an actor", "long function", "empty name"]

PLATFORM = Path(__file__).parents[2] / "platform" / "rayplane"
LONGEST = 60
"""Lines beyond which a function counts as long."""
OTHERS: dict[Kind, float | None] = {
    "docstring opens with a question word": 2.0,
    "pronoun without an actor": 0.3,
    "long function": None,
    "empty name": 1.2,
}
"""Shares in per cent in kopf or httpx, the lower of the two; not measured for long functions."""
_QUESTION = re.compile(r"(what|whether|how|that)\b", re.IGNORECASE)
_PRONOUN = re.compile(
    r"\b(somebody|nobody|anybody|whoever|someone|anyone|no one|by what|what is told)\b", re.IGNORECASE
)
_EMPTY = frozenset({"found", "told", "held", "seen", "given", "kept", "got", "thing", "things", "stuff", "tmp", "temp"})


@dataclass(frozen=True)
class Place:
    """One line to look at."""

    kind: Kind
    path: str
    line: int
    text: str


@dataclass
class Counts:
    """Totals: docstrings, docstrings and messages, functions, locals."""

    docstrings: int = 0
    texts: int = 0
    functions: int = 0
    names: int = 0

    def of(self, kind: Kind) -> int:
        """The total of which places of this kind are a share."""
        return {
            "docstring opens with a question word": self.docstrings,
            "pronoun without an actor": self.texts,
            "long function": self.functions,
            "empty name": self.names,
        }[kind]


def look(files: Iterable[Path], counts: Counts) -> Iterator[Place]:
    """Yield the places in these files, and add the totals to ``counts``."""
    for path in files:
        tree = ast.parse(path.read_text(), str(path))
        yield from _docstrings(tree, str(path), counts)
        yield from _messages(tree, str(path), counts)
        yield from _functions(tree, str(path), counts)


def _docstrings(tree: ast.Module, path: str, counts: Counts) -> Iterator[Place]:
    for line, text in _texts(tree):
        counts.docstrings += 1
        counts.texts += 1
        first = text.strip().splitlines()[0] if text.strip() else ""
        if _QUESTION.match(first):
            yield Place("docstring opens with a question word", path, line, first)
        if match := _PRONOUN.search(text):
            yield Place("pronoun without an actor", path, line, _around(text, match))


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, docstring) of modules, classes and functions, and of assignments that a string follows."""
    for node in ast.walk(tree):
        for before, statement in zip([None, *_body(node)], _body(node), strict=False):
            documents = isinstance(before, ast.Assign | ast.AnnAssign) or (
                before is None and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            )
            value = statement.value if documents and isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def _body(node: ast.AST) -> list[ast.stmt]:
    body = getattr(node, "body", [])
    return body if isinstance(body, list) else []


def _messages(tree: ast.Module, path: str, counts: Counts) -> Iterator[Place]:
    """Places in string arguments of calls: errors, remedies, log lines, help."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            text = _text_of(argument)
            if len(text.split()) < 3:
                continue
            counts.texts += 1
            if match := _PRONOUN.search(text):
                yield Place("pronoun without an actor", path, argument.lineno, _around(text, match))


def _text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


def _functions(tree: ast.Module, path: str, counts: Counts) -> Iterator[Place]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        counts.functions += 1
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > LONGEST:
            yield Place("long function", path, node.lineno, f"{node.name}: {lines} lines")
        names: dict[str, int] = {}
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                names.setdefault(part.id, part.lineno)
        counts.names += len(names)
        for name, line in names.items():
            if name in _EMPTY:
                yield Place("empty name", path, line, f"{name} in {node.name}")


def _around(text: str, match: re.Match[str]) -> str:
    return " ".join(text[max(0, match.start() - 40) : match.end() + 40].split())


def main() -> None:
    """Print the places and the shares."""
    parser = argparse.ArgumentParser(description="List what a newcomer stumbles over.")
    parser.add_argument("folder", nargs="*", type=Path, default=[PLATFORM], help="Default: the platform.")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    asked = parser.parse_args()
    counts = Counts()
    files = sorted(file for folder in asked.folder for file in folder.rglob("*.py"))
    places = list(look(files, counts))
    shares = {
        kind: {
            "places": (number := sum(place.kind == kind for place in places)),
            "of": counts.of(kind),
            "per_cent": round(100 * number / max(1, counts.of(kind)), 2),
            "others_per_cent": others,
        }
        for kind, others in OTHERS.items()
    }
    if asked.output == "json":
        json.dump({"places": [asdict(place) for place in places], "shares": shares}, sys.stdout, indent=1)
        return
    for place in places:
        print(f"{place.path}:{place.line}: {place.kind}: {place.text}")
    for kind, share in shares.items():
        others = share["others_per_cent"]
        print(f"{kind}: {share['places']} of {share['of']}, {share['per_cent']} % (others: {others} %)")


if __name__ == "__main__":
    main()
