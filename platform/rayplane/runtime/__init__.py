"""The data plane, inside Ray's workers and replicas. Public names for a team's code, resolved lazily."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from rayplane.runtime import mlflow_plugins

__all__ = ["context", "datasets", "features", "models", "report"]

# Called on import, since it must come before the process' first request to MLflow.
mlflow_plugins.load_without_feast()


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
