"""Spare processes Feast's run-time type checks, which take most of the seconds that its import takes.

Feast 0.67 decorates its classes with typeguard's ``typechecked``, which reads each one's source, rewrites it and
compiles it anew: 5 of 7 seconds. Upstream could decorate under a setting, or use typeguard's import hook in its own
tests alone. Our calls of Feast are typed, and tested; whatever else uses typeguard is checked as ever.
"""

from __future__ import annotations

import functools
from typing import Any

import typeguard

_checked = typeguard.typechecked


def without_type_checks() -> None:
    """From now on leave what Feast decorates as it is; to be called before its first import. Again is harmless."""
    if typeguard.typechecked is _checked:
        typeguard.typechecked = _all_but_feast


@functools.wraps(_checked)
def _all_but_feast(target: Any = None, **options: Any) -> Any:
    if target is None:
        return functools.partial(_all_but_feast, **options)
    if str(getattr(target, "__module__", "")).partition(".")[0] == "feast":
        return target
    return _checked(target, **options)
