"""Apply the structural schema of a CustomResourceDefinition to an object, as the API server does. Pure.

Four steps, in the API server's order: find unknown fields (``unknown``), drop those and fill in defaults (``filled``),
validate the result (``wrong``), and find duplicate items of sets and maps (``twice``). CEL rules are in cel.py, the
object's metadata in metadata.py.

A node is compiled when an object first has a value there: KubeRay's schemas are megabytes, its objects are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Any, Final

from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, child, item, nearest, shown
from rayplane.gateway.backends.kubernetes.preflight.formats import FORMATS

Json = Any
"""A JSON value: dict, list, str, int, float, bool, None."""

ABSENT: Final = object()
"""No value at all, unlike null."""

BLOCKING = frozenset(
    {"schema.type", "schema.null", "schema.required", "schema.enum", "schema.max-length", "schema.max-items"}
)
"""Rules of which any violation makes the API server skip all CEL rules."""

_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
_META = frozenset({"apiVersion", "kind", "metadata"})


class Node:
    """One node of a schema. Its children are made on first use, once."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self._children: dict[str, Node] = {}

    @cached_property
    def properties(self) -> dict[str, Any]:
        """Name -> schema of the listed fields."""
        return self.raw.get("properties") or {}

    @cached_property
    def additional(self) -> Node | None:
        """Node of the fields that are not listed; None if there may be none."""
        raw = self.raw.get("additionalProperties")
        return Node(raw if isinstance(raw, dict) else {"x-kubernetes-preserve-unknown-fields": True}) if raw else None

    @cached_property
    def items(self) -> Node | None:
        """Node of a list's items."""
        raw = self.raw.get("items")
        return Node(raw) if isinstance(raw, dict) else None

    @cached_property
    def open(self) -> bool:
        """True if the API server keeps fields that the schema does not know."""
        return self.raw.get("x-kubernetes-preserve-unknown-fields") is True

    @cached_property
    def embedded(self) -> bool:
        """True if the value is a whole Kubernetes object of its own."""
        return self.raw.get("x-kubernetes-embedded-resource") is True

    @cached_property
    def nullable(self) -> bool:
        """True if null is a valid value."""
        return self.raw.get("nullable") is True

    @cached_property
    def list_type(self) -> str | None:
        """Kind of a list: atomic, set or map."""
        return self.raw.get("x-kubernetes-list-type")

    @cached_property
    def list_keys(self) -> tuple[str, ...]:
        """Fields that identify the items of a list of type map."""
        return tuple(self.raw.get("x-kubernetes-list-map-keys") or ())

    @cached_property
    def checks(self) -> tuple[Callable[[Json, str], Iterator[Finding]], ...]:
        """Checks of a value, without its children."""
        return tuple(_checks(self.raw))

    @cached_property
    def filling(self) -> tuple[tuple[str, Json], ...]:
        """(name, default) of the fields that have a default."""
        return tuple((name, raw["default"]) for name, raw in self.properties.items() if raw.get("default") is not None)

    def at(self, name: str) -> Node | None:
        """Node of a field, listed or not; None if the schema does not know it."""
        node = self._children.get(name)
        if node is None and name in self.properties:
            node = self._children.setdefault(name, Node(self.properties[name]))
        return node or self.additional


def unknown(value: Json, node: Node | None, path: str = "", *, root: bool = True) -> Iterator[Finding]:
    """Findings about unknown fields: the API server drops them, or refuses them in strict validation."""
    if isinstance(value, dict):
        for name, below in value.items():
            if (root or (node and node.embedded)) and name in _META:
                continue
            known = node.at(name) if node else None
            if known is not None:
                yield from unknown(below, known, child(path, name), root=False)
            elif node is None or not node.open:
                hint = nearest(name, node.properties if node else ())
                yield Finding(child(path, name), "schema.unknown-field", "unknown field", hint)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from unknown(below, node.items if node else None, item(path, index), root=False)


def filled(value: Json, node: Node | None, *, root: bool = True) -> Json:
    """A copy as the API server validates and stores it: without unknown fields, with defaults, also for nulls.

    A null without a default stays: a create request drops it, server-side apply refuses it.
    """
    if node is None:
        return value
    if isinstance(value, dict):
        return _filled_object(value, node, root=root)
    if isinstance(value, list):
        rest = node.items
        if rest is None:
            return list(value)
        default = rest.raw.get("default")
        return [filled(default if below is None and not rest.nullable else below, rest, root=False) for below in value]
    return value


def wrong(value: Json, node: Node, path: str = "", old: Json = ABSENT) -> Iterator[Finding]:
    """Findings about a filled value. A part that is unchanged from ``old`` passes, as in the API server."""
    if old is not ABSENT and same(value, old):
        return
    if value is None and node.nullable:
        return
    for check in node.checks:
        yield from check(value, path)
    if isinstance(value, dict):
        for name in node.raw.get("required") or ():
            if name not in value:
                hint = "Set it." if "type" not in node.properties.get(name, {}) else _say_type(node.properties[name])
                yield Finding(child(path, name), "schema.required", "required, and missing", hint)
        for name, below in value.items():
            below_node = node.at(name)
            if below_node is not None:
                yield from wrong(below, below_node, child(path, name), field_of(old, name))
    elif isinstance(value, list) and node.items is not None:
        for index, (below, before) in enumerate(correlated(value, old, node)):
            yield from wrong(below, node.items, item(path, index), before)


def twice(value: Json, node: Node | None, path: str = "") -> Iterator[Finding]:
    """Findings about duplicate items of sets and maps."""
    if node is None:
        return
    if isinstance(value, dict):
        for name, below in value.items():
            yield from twice(below, node.at(name), child(path, name))
    elif isinstance(value, list):
        if node.list_type in ("set", "map"):
            yield from _twice_here(value, node, path)
        for index, below in enumerate(value):
            yield from twice(below, node.items, item(path, index))


def correlated(value: list[Json], old: Json, node: Node) -> Iterable[tuple[Json, Json]]:
    """Each item with its earlier version, or ABSENT: only items of maps have keys to match by."""
    if not isinstance(old, list) or node.list_type != "map":
        return ((below, ABSENT) for below in value)
    before = {_key(each, node.list_keys): each for each in old}
    return ((below, before.get(_key(below, node.list_keys), ABSENT)) for below in value)


def _filled_object(value: dict[str, Json], node: Node, *, root: bool) -> dict[str, Json]:
    done: dict[str, Json] = {}
    for name, below in value.items():
        if (root or node.embedded) and name in _META:
            done[name] = below
            continue
        known = node.at(name)
        if known is None:
            if node.open:
                done[name] = below
        elif below is not None or known.nullable:
            done[name] = filled(below, known, root=False)
        elif known is node.additional and known.raw.get("default") is not None:
            done[name] = filled(known.raw["default"], known, root=False)
        elif known.raw.get("default") is None:
            done[name] = None
    for name, default in node.filling:
        if name not in done:
            done[name] = filled(default, node.at(name), root=False)
    return done


def _twice_here(value: list[Json], node: Node, path: str) -> Iterator[Finding]:
    keys_before: set[Any] = set()
    for index, below in enumerate(value):
        if node.list_type == "map" and not isinstance(below, dict):
            continue  # the check of its type reports it
        key = _key(below, node.list_keys) if node.list_type == "map" else _frozen(below)
        if key in keys_before:
            what = ", ".join(f"{name} {shown(below.get(name))}" for name in node.list_keys) or shown(below)
            yield Finding(
                item(path, index), "schema.duplicate", f"comes twice: {what}", "Keep one of them, or rename one."
            )
        keys_before.add(key)


def _checks(raw: dict[str, Any]) -> Iterator[Callable[[Json, str], Iterator[Finding]]]:
    yield lambda value, path: _check_type(value, path, raw)
    if raw.get("enum"):
        yield lambda value, path: _check_enum(value, path, raw["enum"])
    if "minimum" in raw or "maximum" in raw or "multipleOf" in raw or raw.get("format") in _RANGES:
        yield lambda value, path: _check_number(value, path, raw)
    if "pattern" in raw or "minLength" in raw or "maxLength" in raw:
        yield lambda value, path: _check_string(value, path, raw)
    if raw.get("format") in FORMATS and raw.get("type", "string") == "string":
        yield lambda value, path: _check_format(value, path, raw["format"])
    if raw.get("x-kubernetes-embedded-resource") is True:
        yield _check_embedded
    if {"minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"} & raw.keys():
        yield lambda value, path: _check_size(value, path, raw)
    if {"allOf", "anyOf", "oneOf", "not"} & raw.keys():
        yield lambda value, path: _check_junctors(value, path, raw)


def _check_type(value: Json, path: str, raw: dict[str, Any]) -> Iterator[Finding]:
    wanted = raw.get("type")
    if value is None:
        yield Finding(
            path, "schema.null", "is null, which server-side apply does not take", "Leave it out, or fill it."
        )
        return
    if raw.get("x-kubernetes-int-or-string") is True:
        if not _is(value, "integer") and not isinstance(value, str):
            yield Finding(path, "schema.type", f"is {_name(value)}, not an integer or a string", _quote(value))
    elif wanted is not None and not _is(value, wanted):
        yield Finding(path, "schema.type", f"is {_name(value)}, not {_article(wanted)}", _say_type(raw, value))


def _check_enum(value: Json, path: str, allowed: list[Json]) -> Iterator[Finding]:
    if not any(same(value, each) for each in allowed):
        words = [str(each) for each in allowed]
        near = nearest(value, words) if isinstance(value, str) else f"Known here: {', '.join(words)}."
        yield Finding(path, "schema.enum", f"{shown(value)} is none of {', '.join(words)}", near)


def _check_number(value: Json, path: str, raw: dict[str, Any]) -> Iterator[Finding]:
    if not _is(value, "number"):
        return
    low, high = _RANGES.get(raw.get("format", ""), (None, None))
    if low is not None and high is not None and not low <= value <= high:
        message = f"{value} does not fit {raw['format']}"
        yield Finding(path, "schema.format", message, f"Give a number between {low} and {high}.")
        return
    least, most = raw.get("minimum"), raw.get("maximum")
    if least is not None and (value < least or (raw.get("exclusiveMinimum") and value == least)):
        yield Finding(path, "schema.minimum", f"{value} is less than {least}", f"Give at least {least}.")
    if most is not None and (value > most or (raw.get("exclusiveMaximum") and value == most)):
        yield Finding(path, "schema.maximum", f"{value} is more than {most}", f"Give at most {most}.")
    step = raw.get("multipleOf")
    if step and abs(value / step - round(value / step)) > 1e-9:
        yield Finding(path, "schema.multiple-of", f"{value} is no multiple of {step}", f"Give a multiple of {step}.")


def _check_string(value: Json, path: str, raw: dict[str, Any]) -> Iterator[Finding]:
    if not isinstance(value, str):
        return
    if "maxLength" in raw and len(value) > raw["maxLength"]:
        message = f"has {len(value)} characters, more than {raw['maxLength']}"
        yield Finding(path, "schema.max-length", message, f"Give at most {raw['maxLength']} characters.")
    if "minLength" in raw and len(value) < raw["minLength"]:
        message = f"has {len(value)} characters, fewer than {raw['minLength']}"
        yield Finding(path, "schema.min-length", message, f"Give at least {raw['minLength']} characters.")
    pattern = _pattern(raw["pattern"]) if raw.get("pattern") else None
    if pattern is not None and not pattern.search(value):
        quantity = raw.get("x-kubernetes-int-or-string") is True
        remedy = (
            "Give a quantity, such as 500m, 2 or 4Gi." if quantity else f"Give a text that matches {raw['pattern']}."
        )
        yield Finding(path, "schema.pattern", f"{shown(value)} is not of the form that goes here", remedy)


def _check_format(value: Json, path: str, name: str) -> Iterator[Finding]:
    if isinstance(value, str) and not FORMATS[name].matches(value):
        yield Finding(path, "schema.format", f"{shown(value)} is not {FORMATS[name].what}", FORMATS[name].remedy)


def _check_size(value: Json, path: str, raw: dict[str, Any]) -> Iterator[Finding]:
    if isinstance(value, list):
        least, most, what = raw.get("minItems"), raw.get("maxItems"), "items"
        if raw.get("uniqueItems") and len({_frozen(each) for each in value}) < len(value):
            yield Finding(path, "schema.unique-items", "has an item twice", "Keep one of them.")
    elif isinstance(value, dict):
        least, most, what = raw.get("minProperties"), raw.get("maxProperties"), "properties"
    else:
        return
    if least is not None and len(value) < least:
        message = f"has {len(value)} {what}, fewer than {least}"
        yield Finding(path, f"schema.min-{what}", message, f"Give at least {least}, or leave it out.")
    if most is not None and len(value) > most:
        yield Finding(path, f"schema.max-{what}", f"has {len(value)} {what}, more than {most}", f"Give at most {most}.")


def _check_embedded(value: Json, path: str) -> Iterator[Finding]:
    for name in ("apiVersion", "kind") if isinstance(value, dict) else ():
        if not isinstance(value.get(name), str) or not value[name]:
            message = "required: a whole Kubernetes object goes here"
            yield Finding(child(path, name), "schema.embedded", message, f"Say its {name}.")


def _check_junctors(value: Json, path: str, raw: dict[str, Any]) -> Iterator[Finding]:
    """Findings about allOf, anyOf, oneOf and not. The branches of an int-or-string only repeat its type."""
    for each in raw.get("allOf") or ():
        yield from wrong(value, Node(each), path)
    if raw.get("anyOf") and not raw.get("x-kubernetes-int-or-string") and not any(map(_fits(value), raw["anyOf"])):
        yield Finding(path, "schema.any-of", "fits none of the shapes that go here", "See 'kubectl explain'.")
    if raw.get("oneOf") and sum(map(_fits(value), raw["oneOf"])) != 1:
        yield Finding(path, "schema.one-of", "does not fit exactly one of the shapes", "See 'kubectl explain'.")
    if raw.get("not") and _fits(value)(raw["not"]):
        yield Finding(path, "schema.not", "is of a shape that must not be here", "See 'kubectl explain'.")


def _fits(value: Json) -> Callable[[dict[str, Any]], bool]:
    return lambda raw: not any(True for _ in wrong(value, Node(raw)))


def _is(value: Json, wanted: str) -> bool:
    if wanted == "object":
        return isinstance(value, dict)
    if wanted == "array":
        return isinstance(value, list)
    if wanted == "string":
        return isinstance(value, str)
    if wanted == "boolean":
        return isinstance(value, bool)
    if wanted == "integer":
        whole = isinstance(value, float) and value.is_integer()
        return whole or (isinstance(value, int) and not isinstance(value, bool))
    if wanted == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return True


def _name(value: Json) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return f"the {'text' if isinstance(value, str) else type(value).__name__} {shown(value)}"


_ARTICLES = {"object": "an object", "array": "a list", "string": "a text", "boolean": "true or false"}


def _article(wanted: str) -> str:
    return _ARTICLES.get(wanted, f"a{'n' if wanted[:1] in 'aeiou' else ''} {wanted}")


def _say_type(raw: dict[str, Any], value: Json = ABSENT) -> str:
    wanted = raw.get("type", "")
    if wanted == "string" and _is(value, "number"):
        return _quote(value)
    form = f" ({raw['format']})" if raw.get("format") else ""
    return f"Give {_article(wanted)}{form}."


def _quote(value: Json) -> str:
    return f'Write it in quotes: "{str(value).lower() if isinstance(value, bool) else value}".'


def field_of(old: Json, name: str) -> Json:
    """A field of the earlier value; ABSENT if there was none."""
    return old.get(name, ABSENT) if isinstance(old, dict) else ABSENT


def same(one: Json, other: Json) -> bool:
    """True if equal and of the same type: in Python 1 == 1.0 == True."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(each, other[name]) for name, each in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def _key(value: Json, names: tuple[str, ...]) -> Any:
    return tuple(_frozen(value[name]) if name in value else ABSENT for name in names) if isinstance(value, dict) else ()


def _frozen(value: Json) -> Any:
    if isinstance(value, dict):
        return ("object", frozenset((name, _frozen(each)) for name, each in value.items()))
    if isinstance(value, list):
        return ("list", tuple(map(_frozen, value)))
    return (type(value), value)


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str] | None:
    """Compile a pattern of Go's RE2, where ``$`` is the end of the text. None if Python can't: the API server can."""
    try:
        return re.compile(re.sub(r"(?<!\\)\$(?=$|\)|\|)", r"\\Z", text), re.ASCII)
    except re.error:
        return None
