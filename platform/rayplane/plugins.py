"""Table of plug-ins: family -> name -> "module:attribute", and other strings by which libraries import our code.

Third parties add plug-ins by entry points of the group ``rayplane.<family>``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from rayplane.errors import Unsupported

TABLE: dict[str, dict[str, str]] = {
    "backends": {
        "local": "rayplane.gateway.backends.local:LocalBackend",
        "existing": "rayplane.gateway.backends.existing:ExistingBackend",
        "kubernetes": "rayplane.gateway.backends.kubernetes.backend:KubernetesBackend",
    },
    "storage": {
        "file": "rayplane.storage.file:FileStorage",
    },
    "flavors": {
        "xgboost": "rayplane.runtime.models.flavors.xgboost:XGBoostFlavor",
    },
}

# Strings that Ray Train (callbacks) and MLflow (plug-ins) import.
TRAIN_CALLBACK = "rayplane.runtime.training.callback.MlflowTrainCallback"
MLFLOW_AUTH_PROVIDER = "rayplane"
WARM_HEAD = "rayplane.runtime.warm.head"
"""Module that starts Ray with warm processes: run it with ``python -m`` in place of Ray's own command line."""
OBSERVE_ENTRYPOINT = "python -m rayplane.runtime.datasets.observe"


def names(family: str) -> list[str]:
    """All names of a family: the platform's own and those of entry points."""
    return sorted({*TABLE[family], *(e.name for e in entry_points(group=f"rayplane.{family}"))})


def load(family: str, name: str) -> Any:
    """Import the plug-in with this name in a family; raises Unsupported listing the known names."""
    target = TABLE[family].get(name)
    if target is not None:
        return resolve(target)
    for entry in entry_points(group=f"rayplane.{family}"):
        if entry.name == name:
            return entry.load()
    raise Unsupported(f"'{name}' is not in {family}.", remedy=f"Known: {', '.join(names(family))}.")


def resolve(target: str) -> Any:
    """Import ``module:attribute``."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
