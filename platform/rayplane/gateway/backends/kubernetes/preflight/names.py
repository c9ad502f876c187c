"""Syntax of names, label keys and label values in Kubernetes. Pure: each check returns the problem, or nothing."""

from __future__ import annotations

import re

_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")

LABEL_1035_REMEDY = "Use lower-case letters, digits and '-', begin with a letter and end with a letter or digit."
LABEL_1123_REMEDY = "Use lower-case letters, digits and '-', and begin and end with a letter or digit."
SUBDOMAIN_REMEDY = "Use lower-case letters, digits, '-' and '.', and begin and end with a letter or digit."
QUALIFIED_REMEDY = "Use letters, digits, '-', '_' and '.', begin and end with a letter or digit, 63 characters at most."


def label_1035(text: str) -> str:
    """Check a Service's name (RFC 1035 label). Returns the end of a sentence about it, empty if it is valid."""
    return _wrong(text, _LABEL_1035, 63)


def label_1123(text: str) -> str:
    """Check a name of a namespace, container or volume (RFC 1123 label), like ``label_1035``."""
    return _wrong(text, _LABEL_1123, 63)


def subdomain(text: str) -> str:
    """Check a name of most objects (RFC 1123 subdomain), like ``label_1035``."""
    return _wrong(text, _SUBDOMAIN, 253)


def label_value(text: str) -> str:
    """Check a label's value, which may be empty, like ``label_1035``."""
    return _wrong(text, _QUALIFIED, 63) if text else ""


def qualified(text: str) -> str:
    """Check the key of a label, an annotation or a finalizer (``name`` or ``domain/name``), like ``label_1035``."""
    prefix, slash, name = text.rpartition("/")
    if slash and (wrong := subdomain(prefix)):
        return f"has a prefix that {wrong}" if prefix else "has an empty prefix"
    return _wrong(name, _QUALIFIED, 63)


def _wrong(text: str, form: re.Pattern[str], most: int) -> str:
    if not text:
        return "is empty"
    if len(text) > most:
        return f"has {len(text)} characters, more than {most}"
    return "" if form.fullmatch(text) else "has a character that must not be there"
