"""The formats of strings that the API server checks in custom objects. Pure.

Those of its list that no schema here uses (credit cards, ISBN, colours and the like) are left to the API server.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True)
class Format:
    """A form that a text may have to have."""

    matches: Callable[[str], bool]
    what: str
    """What a text of this form is: completes 'is not ...'."""
    remedy: str


def _form(expression: str, what: str, remedy: str) -> Format:
    compiled = re.compile(expression, re.ASCII | re.IGNORECASE)
    return Format(lambda text: compiled.fullmatch(text) is not None, what, remedy)


def _parsed(parse: Callable[[str], object], what: str, remedy: str) -> Format:
    """A text of which ``parse`` makes something without a ValueError."""

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
