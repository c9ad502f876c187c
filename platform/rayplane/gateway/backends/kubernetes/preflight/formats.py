"""Check formats of texts in objects as the API server does, and parse YAML as the operator does. Pure.

Formats that no schema here uses (credit cards, ISBN, colours and the like) are left to the API server.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import yaml


@dataclass(frozen=True)
class Format:
    """A format that a schema may demand of a text."""

    matches: Callable[[str], bool]
    what: str
    """Noun phrase that completes 'is not ...'."""
    remedy: str


def _form(expression: str, what: str, remedy: str) -> Format:
    compiled = re.compile(expression, re.ASCII | re.IGNORECASE)
    return Format(lambda text: compiled.fullmatch(text) is not None, what, remedy)


def _parsed(parse: Callable[[str], object], what: str, remedy: str) -> Format:
    """A format of the texts for which ``parse`` raises no ValueError."""

    def matches(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return Format(matches, what, remedy)


def _date(text: str) -> date:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise ValueError(text)
    return date.fromisoformat(text)


def _time(text: str) -> datetime:
    form = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:?\d\d)"
    if not re.fullmatch(form, text, re.ASCII):
        raise ValueError(text)
    return datetime.fromisoformat(text.upper().replace("Z", "+00:00"))


def _network(text: str) -> object:
    if "/" not in text:
        raise ValueError(text)
    return ipaddress.ip_interface(text)


_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

FORMATS = {
    "date": _parsed(_date, "a date", "Give a date such as 2026-01-31."),
    "date-time": _parsed(_time, "a time", "Give a time such as 2026-01-31T12:00:00Z."),
    "duration": _form(
        r"[-+]?(0|((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+)", "a duration", "Give a duration such as 90s or 1h30m."
    ),
    "byte": _parsed(lambda text: base64.b64decode(text, validate=True), "base64", "Encode it in base64."),
    "uuid": _form(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", "a UUID", "Give a UUID."),
    "ipv4": _parsed(ipaddress.IPv4Address, "an IPv4 address", "Give an address such as 10.0.0.1."),
    "ipv6": _parsed(ipaddress.IPv6Address, "an IPv6 address", "Give an address such as fd00::1."),
    "cidr": _parsed(_network, "a network", "Give a network such as 10.0.0.0/8."),
    "hostname": _form(rf"{_LABEL}(\.{_LABEL})*", "a host name", "Give a host name such as ray.example.com."),
    "email": _form(r"[^@\s]+@[^@\s]+", "an e-mail address", "Give an address such as me@example.com."),
}


class UnreadableYaml(Exception):
    """A text that the operator can't parse."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}. {remedy}")
        self.message = message
        self.remedy = remedy


def read_yaml(text: str) -> Any:
    """Parse a text as the operator does before it sends it to Ray. Raises UnreadableYaml.

    The operator is written in Go, whose YAML differs from Python's: a date and a lone ``=`` are texts there, and an
    escaped surrogate (JSON escapes characters beyond U+FFFF as a pair of them) is an error.
    """
    try:
        loader = _GoLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except _EscapedSurrogate as error:
        remedy = "Write the character itself instead of its escapes."
        raise UnreadableYaml(f"can't be read by the operator: {error}", remedy) from error
    except (yaml.YAMLError, *_BAD_VALUES) as error:
        problem = " ".join(str(error).split())
        raise UnreadableYaml(f"can't be read as YAML: {problem[:160].rstrip('.!')}", "Correct the YAML.") from error


_BAD_VALUES = (ValueError, ArithmeticError, LookupError, AttributeError)
"""Errors that PyYAML raises besides its own, for values that are not of their tag: ``!!int x``, ``!!bool maybe``."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_ONLY_PYTHONS = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")


class _EscapedSurrogate(yaml.YAMLError):
    """A scalar contains an escaped surrogate."""


class _GoLoader(yaml.SafeLoader):
    """PyYAML's loader without the types that Go's YAML does not have."""

    def construct_scalar(self, node: Any) -> Any:
        scalar = super().construct_scalar(node)
        if surrogate := _SURROGATE.search(scalar):
            line = node.start_mark.line + 1
            raise _EscapedSurrogate(f"line {line} has '\\u{ord(surrogate[0]):x}', which is half of a character")
        return scalar


_GoLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _ONLY_PYTHONS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
