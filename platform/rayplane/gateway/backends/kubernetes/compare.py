"""Whether what is there is what was asked for, ignoring what others own. Pure.

The API server fills in defaults, KubeRay and the autoscaler add fields of their own: only what was asked for counts.
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
"""Lists that server-side apply merges by item, and the member by which an item is known; others may add to them."""


def digest(value: Any) -> str:
    """A short hash of a value of JSON, the same in whatever order its members are."""
    return hashlib.sha256(compact(value).encode()).hexdigest()[:16]


def compact(value: Any) -> str:
    """JSON without spaces, members in order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def differences(wanted: Any, seen: Any, path: str = "", *, exact: bool = False) -> Iterator[str]:
    """Where ``seen`` is not what ``wanted`` says, as sentences like ``spec.suspend: True, not False``.

    ``exact``: it says no more either, and an empty object is not the same as none.
    """
    if isinstance(wanted, dict) and isinstance(seen, dict):
        for key, value in wanted.items():
            yield from differences(value, seen.get(key), f"{path}.{key}" if path else key, exact=exact)
        if exact:
            yield from (f"{path}.{key}: {_shown(seen[key])}, not asked for" for key in sorted(set(seen) - set(wanted)))
    elif isinstance(wanted, list) and isinstance(seen, list):
        yield from _of_lists(wanted, seen, path, exact=exact)
    elif not _same(wanted, seen) or (exact and wanted == {}):
        yield f"{path}: {_shown(seen)}, not {_shown(wanted)}"


def drift(wanted: Any, seen: Any, *, exact: Collection[str] = ()) -> str:
    """The first few differences in one line; empty if there is none. ``exact`` names members that have no defaults."""
    found = [
        difference
        for key, value in wanted.items()
        for difference in differences(value, seen.get(key), key, exact=key in exact)
    ]
    return "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _of_lists(wanted: list[Any], seen: list[Any], path: str, *, exact: bool) -> Iterator[str]:
    key = None if exact else _MERGED.get(path.rpartition(".")[2])
    if key is not None and all(isinstance(item, dict) and key in item for item in wanted + seen):
        there = {item[key]: item for item in seen}
        for item in wanted:
            where = f"{path}[{item[key]}]"
            if item[key] in there:
                yield from differences(item, there[item[key]], where)
            else:
                yield f"{where}: missing"
    elif len(wanted) != len(seen):
        yield f"{path}: {len(seen)} items, not {len(wanted)}"
    else:
        for index, (ours, theirs) in enumerate(zip(wanted, seen, strict=True)):
            yield from differences(ours, theirs, f"{path}[{index}]", exact=exact)


def _same(wanted: Any, seen: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(seen, bool):
        return wanted is seen
    if wanted == seen or (wanted in ({}, [], "", None) and seen in ({}, [], "", None)):
        return True
    try:  # the API server rewrites a quantity: 1000m becomes 1
        return bool(parse_quantity(wanted) == parse_quantity(seen))
    except ValueError:
        return False


def _shown(value: Any) -> str:
    text = compact(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
