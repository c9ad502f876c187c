"""Evaluate the CEL rules of a schema (``x-kubernetes-validations``) on an object with cel-python. Pure.

Rules that use features that cel-python lacks (optional chaining, cel.bind, the URL library) are skipped: the API server
evaluates them, as it evaluates all others again. ``unjudged`` lists them.
"""

from __future__ import annotations

import base64
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import celpy
from celpy import celtypes
from celpy.celparser import CELParseError
from celpy.evaluation import CELEvalError, base_functions
from lark import Token, Tree

from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, child, item
from rayplane.gateway.backends.kubernetes.preflight.quantity import quantity
from rayplane.gateway.backends.kubernetes.preflight.schema import ABSENT, Json, Node, correlated, field_of, same

_compiling = threading.Lock()


def broken(value: Json, node: Node, path: str = "", old: Json = ABSENT, *, root: bool = True) -> Iterator[Finding]:
    """Findings about the CEL rules that a filled value breaks. Rules with ``oldSelf`` apply to updates only."""
    for rule in node.raw.get("x-kubernetes-validations") or ():
        yield from _ask(rule, value, node, path, old, root=root)
    if isinstance(value, dict):
        for name, below in value.items():
            known = node.at(name)
            if known is not None:
                yield from broken(below, known, child(path, name), field_of(old, name), root=False)
    elif isinstance(value, list) and node.items is not None:
        for index, (below, before) in enumerate(correlated(value, old, node)):
            yield from broken(below, node.items, item(path, index), before, root=False)


def unjudged(node: Node) -> list[str]:
    """The rules of a whole schema that are left to the API server. Slow: it compiles every rule."""
    rules = [rule["rule"] for rule in node.raw.get("x-kubernetes-validations") or ()]
    below = [node.at(name) for name in node.properties] + [node.items, node.additional]
    left = [text for text in rules if _program(text) is None]
    return left + [text for each in below if each is not None for text in unjudged(each)]


def _ask(rule: dict[str, Any], value: Json, node: Node, path: str, old: Json, *, root: bool) -> Iterator[Finding]:
    program = _program(rule["rule"])
    if program is None:
        return
    optional = rule.get("optionalOldSelf") is True
    if program.transition and old is ABSENT and not optional:
        return
    context = {"self": to_cel(value, node, root=root)}
    if program.transition:
        before = None if old is ABSENT else to_cel(old, node, root=root)
        context["oldSelf"] = Optional(before) if optional else before
    verdict = program.ask(context)
    if verdict is True or verdict is None:
        return
    if not program.transition and old is not ABSENT and same(value, old):
        return  # the API server accepts an old violation in an unchanged value
    message = " ".join(str(rule.get("message") or f"breaks the rule {rule['rule']}").split())
    if rule.get("messageExpression") and (words := _words(rule["messageExpression"], context)):
        message = words
    if isinstance(verdict, str):
        message = f"{message} ({verdict})"
    where = path + str(rule["fieldPath"]) if rule.get("fieldPath") else path
    remedy = (
        "Keep the value that it has, or delete the object and create it again."
        if program.transition
        else f"The resource's own rule is: {' '.join(rule['rule'].split())}"
    )
    yield Finding(where.removeprefix("."), "cel", message.rstrip("."), remedy)


def _words(expression: str, context: dict[str, Any]) -> str:
    program = _program(expression)
    message = program.value(context) if program else None
    return " ".join(message.split()) if isinstance(message, str) else ""


@dataclass(frozen=True)
class Program:
    """A compiled rule."""

    runner: celpy.Runner
    transition: bool
    """True if the rule uses ``oldSelf``."""

    def ask(self, context: dict[str, Any]) -> bool | str | None:
        """True if the rule holds, False or an error's message if it is broken; None for cel-python's own errors."""
        try:
            return bool(self.runner.evaluate(context))
        except CELEvalError as error:
            message = str(error.args[0]) if error.args else str(error)
            lacking = message.startswith(("undeclared reference", "found no matching overload"))
            return None if lacking else message.split("\n")[0][:120]

    def value(self, context: dict[str, Any]) -> object:
        """Value of the expression; None if it ends in an error."""
        try:
            return self.runner.evaluate(context)
        except CELEvalError:
            return None


@lru_cache(maxsize=1024)
def _program(text: str) -> Program | None:
    """The rule's program, compiled once; None for a rule that uses an unknown function."""
    with _compiling:
        environment = _environment()
        try:
            tree = environment.compile(text)
        except CELParseError:
            return None
        if not _called(tree) <= _known():
            return None
        runner = environment.program(tree, functions=_FUNCTIONS)
        return Program(runner, "oldSelf" in _tokens(tree))


@lru_cache(maxsize=1)
def _environment() -> celpy.Environment:
    return celpy.Environment()


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    macros = ("has", "all", "exists", "exists_one", "map", "filter", "dyn")
    return frozenset({*base_functions, *_FUNCTIONS, *macros})


def _tokens(tree: Tree[Token]) -> set[str]:
    return {str(each) for each in tree.scan_values(lambda value: isinstance(value, Token))}


def _called(tree: Tree[Token]) -> set[str]:
    """Names of all functions that an expression calls."""
    calls = {"ident_arg": 0, "dot_ident_arg": 0, "member_dot_arg": 1}
    return {str(each.children[calls[each.data]]) for each in tree.iter_subtrees() if each.data in calls}


def to_cel(value: Json, node: Node | None, *, root: bool = False) -> Any:
    """Convert a value for CEL: typed by its schema, with escaped names; sets and maps are equal in any order."""
    if value is None:
        return None
    if isinstance(value, dict):
        fields = _visible(value) if root or (node and node.embedded) else value
        named = node.properties if node else {}
        return celtypes.MapType(
            {
                celtypes.StringType(_escaped(name) if name in named else name): to_cel(
                    below, node.at(name) if node else None
                )
                for name, below in fields.items()
            }
        )
    if isinstance(value, list):
        kind = Unordered if node is not None and node.list_type in ("set", "map") else celtypes.ListType
        return kind([to_cel(below, node.items if node else None) for below in value])
    return _scalar(value, (node.raw if node else {}).get("type"), (node.raw if node else {}).get("format"))


def _visible(value: dict[str, Json]) -> dict[str, Json]:
    """The part of an object that rules see: of its metadata only the name."""
    metadata = value.get("metadata")
    names = {key: metadata[key] for key in ("name", "generateName") if key in metadata} if metadata else {}
    return {**value, "metadata": names}


def _scalar(value: Json, kind: str | None, form: str | None) -> Any:
    if isinstance(value, bool):
        return celtypes.BoolType(value)
    if isinstance(value, str):
        if form == "byte":
            return celtypes.BytesType(base64.b64decode(value))
        if form == "date-time":
            return celtypes.TimestampType(value)
        return celtypes.DurationType(value) if form == "duration" else celtypes.StringType(value)
    if kind == "number" or (isinstance(value, float) and kind != "integer"):
        return celtypes.DoubleType(value)
    return celtypes.IntType(value)


_RESERVED = frozenset(
    {
        *("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if"),
        *("import", "let", "loop", "package", "namespace", "return", "var", "void", "while"),
    }
)


def _escaped(name: str) -> str:
    """Escape a field's name for CEL."""
    if name in _RESERVED:
        return f"__{name}__"
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and "__" not in name:
        return name
    for plain, escape in (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")):
        name = name.replace(plain, escape)
    return name


class Unordered(celtypes.ListType):
    """A list of type set or map: its order has no meaning."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, list)
            and len(self) == len(other)
            and all(any(bool(each == there) for there in other) for each in self)
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # as any list


class Optional:
    """``oldSelf`` of a rule with ``optionalOldSelf``: it has a value on updates only."""

    def __init__(self, value: Any) -> None:
        self.inside = value


def _has_value(optional: Optional) -> celtypes.BoolType:
    return celtypes.BoolType(optional.inside is not None)


def _value(optional: Optional) -> Any:
    if optional.inside is None:
        raise ValueError("optional.none() dereference")
    return optional.inside


def _or_value(optional: Optional, other: Any) -> Any:
    return other if optional.inside is None else optional.inside


class Quantity:
    """A quantity in a rule."""

    def __init__(self, worth: Fraction) -> None:
        self.worth = worth

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.worth == other.worth

    def __hash__(self) -> int:
        return hash(self.worth)


def _quantity(text: str) -> Quantity:
    worth = quantity(str(text))
    if worth is None:
        raise ValueError(f"{text} is no quantity")
    return Quantity(worth)


def _worth(value: Any) -> Fraction:
    return value.worth if isinstance(value, Quantity) else Fraction(int(value))


def _compare(one: Quantity, other: Quantity) -> celtypes.IntType:
    return celtypes.IntType((one.worth > other.worth) - (one.worth < other.worth))


def _index(text: Any, sought: Any, start: int = 0) -> celtypes.IntType:
    if isinstance(text, str):
        return celtypes.IntType(text.find(sought, start))
    return celtypes.IntType(next((index for index, each in enumerate(text) if each == sought), -1))


def _last_index(text: Any, sought: Any) -> celtypes.IntType:
    if isinstance(text, str):
        return celtypes.IntType(text.rfind(sought))
    return celtypes.IntType(max((index for index, each in enumerate(text) if each == sought), default=-1))


def _text(make: Callable[..., str]) -> Callable[..., celtypes.StringType]:
    return lambda *args: celtypes.StringType(make(*args))


def _texts(make: Callable[..., list[str]]) -> Callable[..., celtypes.ListType]:
    return lambda *args: celtypes.ListType([celtypes.StringType(each) for each in make(*args)])


def _truth(make: Callable[..., bool]) -> Callable[..., celtypes.BoolType]:
    return lambda *args: celtypes.BoolType(make(*args))


def _find(text: str, expression: str) -> str:
    match = re.search(expression, text)
    return match.group(0) if match else ""


def _find_all(text: str, expression: str, most: int = -1) -> list[str]:
    matches = [each.group(0) for each in re.finditer(expression, text)]
    return matches if most < 0 else matches[:most]


def _split(text: str, by: str, most: int = -1) -> list[str]:
    if most == 0:
        return []
    return list(text) if not by else text.split(by, most - 1 if most > 0 else -1)


def _sum(values: Any) -> Any:
    total = values[0] if values else celtypes.IntType(0)
    for each in values[1:]:
        total = total + each
    return total


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "hasValue": _has_value,
    "value": _value,
    "orValue": _or_value,
    "isSorted": _truth(lambda values: all(one <= other for one, other in itertools.pairwise(values))),
    "sum": _sum,
    "min": lambda values: min(values),
    "max": lambda values: max(values),
    "indexOf": _index,
    "lastIndexOf": _last_index,
    "find": _text(_find),
    "findAll": _texts(_find_all),
    "charAt": _text(lambda text, at: text[at : at + 1]),
    "join": _text(lambda values, by="": by.join(values)),
    "lowerAscii": _text(lambda text: str(text).lower()),
    "upperAscii": _text(lambda text: str(text).upper()),
    "replace": _text(lambda text, old, new, most=-1: str(text).replace(old, new, most)),
    "split": _texts(_split),
    "substring": _text(lambda text, start, end=None: text[start:end]),
    "trim": _text(lambda text: text.strip()),
    "isQuantity": _truth(lambda text: quantity(str(text)) is not None),
    "quantity": _quantity,
    "isInteger": _truth(lambda value: value.worth.denominator == 1),
    "asInteger": lambda value: celtypes.IntType(int(value.worth)),
    "asApproximateFloat": lambda value: celtypes.DoubleType(float(value.worth)),
    "sign": lambda value: celtypes.IntType((value.worth > 0) - (value.worth < 0)),
    "add": lambda value, other: Quantity(value.worth + _worth(other)),
    "sub": lambda value, other: Quantity(value.worth - _worth(other)),
    "compareTo": _compare,
    "isGreaterThan": _truth(lambda one, other: one.worth > other.worth),
    "isLessThan": _truth(lambda one, other: one.worth < other.worth),
}
