"""Every string that names code: family -> name -> "module:attribute". Others add entry points `rayplane.<family>`."""

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

# Strings that other programs resolve: Ray's callbacks, MLflow's plug-ins, Serve's applications.
TRAIN_CALLBACK = "rayplane.runtime.training.callback.MlflowTrainCallback"
SERVING_APP = "rayplane.runtime.serving.app:build"
MLFLOW_AUTH_PROVIDER = "rayplane"
WARM_HEAD = "rayplane.runtime.warm.head"
"""Run with ``python -m`` in place of Ray's own command line, it starts Ray with warm processes."""
OBSERVE_ENTRYPOINT = "python -m rayplane.runtime.datasets.observe"


def names(family: str) -> list[str]:
    """The names known in a family, ours and third parties'."""
    return sorted({*TABLE[family], *(e.name for e in entry_points(group=f"rayplane.{family}"))})


def load(family: str, name: str) -> Any:
    """The object that a name of a family stands for; raises Unsupported naming the known ones."""
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
