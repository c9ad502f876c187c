"""Load YAML that users wrote: refuse duplicate keys and aliases that expand hugely; every error has a file and line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from rayplane.errors import InvalidSpec
from rayplane.nouns.base import MOST_LEVELS

MOST_VALUES = 100_000
"""The most values that a document may have with all aliases expanded: a few lines can expand to billions."""

_MERGE = "tag:yaml.org,2002:merge"


def load(text: str, name: str) -> list[Any]:
    """The values of all documents in a text, except empty ones.

    Raises InvalidSpec naming ``name`` and the line for invalid YAML, a duplicate key, and a document that is nested too
    deeply or is too large with its aliases expanded.
    """
    try:
        loader = _Loader(text)
        try:
            return [value for value in _all(loader) if value is not None]
        finally:
            loader.dispose()
    except ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise _not_yaml(name, f"U+{exc.character:04X} is no character of a text", line) from exc
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        why = ", ".join(part for part in (exc.context, exc.problem) if part)
        raise _not_yaml(name, why, mark.line + 1 if mark else None) from exc
    except yaml.YAMLError as exc:
        raise _not_yaml(name, str(exc), None) from exc


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with checks that it lacks: for duplicate keys, depth, and the size of expanded aliases."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._levels = 0
        self._sizes: dict[Node, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node, counting its depth and its size; an alias yields a node that was composed before."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._levels += 1
        if self._levels > MOST_LEVELS:
            raise ComposerError(None, None, "it is nested too deeply", event.start_mark)
        node = super().compose_node(parent, index)
        self._levels -= 1
        if node is not None and not isinstance(event, AliasEvent):
            self._sizes[node] = size = 1 + sum(self._sizes.get(part, 1) for part in _parts(node))
            if size > MOST_VALUES:
                why = f"it holds more than {MOST_VALUES} values once its aliases are written out"
                raise ComposerError(None, None, why, event.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping; refuse duplicate keys, except that a key may override one merged in by ``<<``."""
        node: MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag == _MERGE:
                continue
            if (first := lines.get((key.tag, key.value))) is not None:
                raise ComposerError(None, None, f"key '{key.value}' of line {first} is there again", key.start_mark)
            lines[key.tag, key.value] = key.start_mark.line + 1
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Construct a node's value; errors that PyYAML lets escape (2013-02-30, !!bool x) get their line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError) as exc:
            raise ConstructorError(None, None, str(exc), node.start_mark) from exc
        except (LookupError, AttributeError) as exc:
            raise ConstructorError(None, None, "a value is not of its tag's kind", node.start_mark) from exc


def _all(loader: _Loader) -> Iterator[Any]:
    while loader.check_data():  # type: ignore[no-untyped-call]
        yield loader.get_data()


def _parts(node: Node) -> Iterator[Node]:
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        yield from chain.from_iterable(node.value)


def _not_yaml(name: str, why: str, line: int | None) -> InvalidSpec:
    where = f", in line {line}" if line is not None else ""
    return InvalidSpec(f"{name}: not YAML: {why}{where}.", remedy="Mend the file.")
