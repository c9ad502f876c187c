"""Kubernetes' quantities: ``500m``, ``2``, ``4Gi``, ``1e3``. Pure; a quantity is an exact Fraction."""

from __future__ import annotations

import re
from fractions import Fraction

_FORM = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?\d+))?", re.ASCII)
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def quantity(value: object) -> Fraction | None:
    """Value of a quantity, which may be a plain number; None if it is no quantity."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    match = _FORM.fullmatch(str(value))
    if match is None:
        return None
    sign, digits, binary, decimal, exponent = match.groups()
    worth = Fraction(digits if digits[-1:] != "." else digits[:-1])
    if binary:
        worth *= 2 ** _BINARY[binary]
    elif decimal:
        worth *= Fraction(10) ** _DECIMAL[decimal]
    elif exponent:
        worth *= Fraction(10) ** max(-100, min(100, int(exponent)))
    return -worth if sign == "-" else worth
