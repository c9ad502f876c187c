"""Read the documents of a YAML text, and refuse values that JSON can't represent."""

from __future__ import annotations

import math
from typing import Any

from rayplane import errors
from rayplane.nouns.base import Document, check_json, parse


def read_documents(text: str, name: str) -> list[Document]:
    """Parse the documents of a YAML text. Raises InvalidSpec naming ``name`` and the line, or document and field."""
    from rayplane.client.documents import load  # imported here, since most calls need no YAML

    values = load(text, name)
    if not values:
        raise errors.InvalidSpec(f"{name}: there is no document in it.", remedy="Write kind, metadata and spec.")
    documents = []
    for index, value in enumerate(values):
        require_json(value, f"{name}[{index}]")
        documents.append(parse(Document, value, f"{name}[{index}]"))
    return documents


def require_json(value: Any, path: str) -> None:
    """Raise InvalidSpec naming the first field below ``path`` whose value JSON can't represent."""
    queue, checked = [(path, value)], set[int]()
    while queue:
        where, item = queue.pop()
        parts: list[tuple[str, Any]] = []
        if isinstance(item, dict):
            parts = [(f"{where}.{key}", part) for key, part in item.items()]
            problem = next((text for key in item if (text := _not_json(key))), None)
        elif isinstance(item, list | tuple):
            parts = [(f"{where}[{index}]", part) for index, part in enumerate(item)]
            problem = None
        else:
            problem = _not_json(item)
        if problem:
            raise errors.InvalidSpec(f"{where}: {problem}.", remedy="Write it in quotes, if it is meant as text.")
        if id(item) not in checked:  # through YAML's aliases one value may occur many times
            queue += reversed(parts)
        checked.add(id(item))
    try:
        check_json(value)
    except ValueError as exc:
        raise errors.InvalidSpec(f"{path}: {exc}.", remedy="Write it out plainly.") from exc


def _not_json(item: Any) -> str | None:
    if item is None or isinstance(item, str | bool):
        return None
    if isinstance(item, int):
        return None if item.bit_length() < 1024 else "it is a number of more than 300 digits"
    if isinstance(item, float):
        return None if math.isfinite(item) else f"{item} is no number"
    return f"'{item}' is a {type(item).__name__}, not a text or number"
