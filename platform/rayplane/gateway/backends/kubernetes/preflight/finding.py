"""Findings of pre-flight (path, rule, message, remedy), and helpers to write paths and messages. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


@dataclass(frozen=True)
class Finding:
    """One problem of an object."""

    path: str
    """Path as Kubernetes writes it: ``spec.workerGroupSpecs[0].minReplicas``. Empty for the object as a whole."""
    rule: str
    """Identifier of the broken rule: ``schema.type``, ``ray.min-over-max``."""
    message: str
    """The problem, without path and without full stop."""
    remedy: str
    """One sentence on how to correct it."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}. {self.remedy}" if self.path else f"{self.message}. {self.remedy}"


def child(path: str, name: str) -> str:
    """Path of a field; a name that is no identifier goes into brackets, as Kubernetes writes it."""
    if not _PLAIN.match(name):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def below(path: str, names: str) -> str:
    """Path of a field further down; ``names`` are identifiers with dots between them."""
    return f"{path}.{names}" if path else names


def item(path: str, index: int) -> str:
    """Path of a list's item."""
    return f"{path}[{index}]"


def nearest(name: str, known: Collection[str]) -> str:
    """Remedy for an unknown name: the most similar known name, else all known names."""
    lowered = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{lowered[near[0]]}'?"
    if not known:
        return "Remove it: nothing goes here."
    return f"Known here: {', '.join(sorted(known))}." if len(known) <= 12 else "Remove it, or see 'kubectl explain'."


def shown(value: object, *, most: int = 60) -> str:
    """A value for a message, shortened to ``most`` characters."""
    text = repr(value)
    if len(text) <= most:
        return text
    return repr(f"{value[: most - 5]}...") if isinstance(value, str) else f"{text[: most - 3]}…"
