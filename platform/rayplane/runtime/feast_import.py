"""Turn off Feast's run-time type checks, which take most of the time of its import.

Feast 0.67 decorates its classes with typeguard's ``typechecked``, which reads the source of each, rewrites it and
compiles it again: 5 of 7 seconds. Upstream could make the decoration optional, or use typeguard's import hook only in
its own tests. Our calls of Feast are statically typed and tested; other users of typeguard are still checked.
"""

from __future__ import annotations

import functools
from typing import Any

import typeguard

_checked = typeguard.typechecked


def without_type_checks() -> None:
    """Exempt Feast's classes from typeguard. Call it before Feast's first import; calling it again is harmless."""
    if typeguard.typechecked is _checked:
        typeguard.typechecked = _all_but_feast


@functools.wraps(_checked)
def _all_but_feast(target: Any = None, **options: Any) -> Any:
    if target is None:
        return functools.partial(_all_but_feast, **options)
    if str(getattr(target, "__module__", "")).partition(".")[0] == "feast":
        return target
    return _checked(target, **options)
