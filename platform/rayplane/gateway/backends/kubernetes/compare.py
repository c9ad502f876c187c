"""Compare an object with its manifest, ignoring fields that other managers own. Pure.

The API server fills in defaults, KubeRay and the autoscaler add fields of their own: only the manifest's fields count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Any

from rayplane.nouns.base import parse_quantity

_MERGED = {
    "containers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}
"""Lists that server-side apply merges by item, and the field that identifies an item; other managers may add items."""


def digest(value: Any) -> str:
    """A short hash of a JSON value, independent of the order of its members."""
    return hashlib.sha256(compact(value).encode()).hexdigest()[:16]


def compact(value: Any) -> str:
    """JSON without spaces, with sorted members."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def differences(wanted: Any, actual: Any, path: str = "", *, exact: bool = False) -> Iterator[str]:
    """Places where ``actual`` differs from ``wanted``, as sentences like ``spec.suspend: True, not False``.

    ``exact``: further fields in ``actual`` are differences too, and an empty object is not the same as none.
    """
    if isinstance(wanted, dict) and isinstance(actual, dict):
        for key, value in wanted.items():
            yield from differences(value, actual.get(key), f"{path}.{key}" if path else key, exact=exact)
        if exact:
            yield from (
                f"{path}.{key}: {_shown(actual[key])}, not asked for" for key in sorted(set(actual) - set(wanted))
            )
    elif isinstance(wanted, list) and isinstance(actual, list):
        yield from _of_lists(wanted, actual, path, exact=exact)
    elif not _same(wanted, actual) or (exact and wanted == {}):
        yield f"{path}: {_shown(actual)}, not {_shown(wanted)}"


def drift(wanted: Any, actual: Any, *, exact: Collection[str] = ()) -> str:
    """The first 3 differences in one line; empty if there is none. ``exact`` names the fields to compare exactly."""
    changes = [
        difference
        for key, value in wanted.items()
        for difference in differences(value, actual.get(key), key, exact=key in exact)
    ]
    return "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")


def _of_lists(wanted: list[Any], actual: list[Any], path: str, *, exact: bool) -> Iterator[str]:
    key = None if exact else _MERGED.get(path.rpartition(".")[2])
    if key is not None and all(isinstance(item, dict) and key in item for item in wanted + actual):
        present = {item[key]: item for item in actual}
        for item in wanted:
            where = f"{path}[{item[key]}]"
            if item[key] in present:
                yield from differences(item, present[item[key]], where)
            else:
                yield f"{where}: missing"
    elif len(wanted) != len(actual):
        yield f"{path}: {len(actual)} items, not {len(wanted)}"
    else:
        for index, (ours, theirs) in enumerate(zip(wanted, actual, strict=True)):
            yield from differences(ours, theirs, f"{path}[{index}]", exact=exact)


def _same(wanted: Any, actual: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(actual, bool):
        return wanted is actual
    if wanted == actual or (wanted in ({}, [], "", None) and actual in ({}, [], "", None)):
        return True
    try:  # the API server rewrites a quantity: 1000m becomes 1
        return bool(parse_quantity(wanted) == parse_quantity(actual))
    except ValueError:
        return False


def _shown(value: Any) -> str:
    text = compact(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
