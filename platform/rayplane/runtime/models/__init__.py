"""Package and judge models. Names that need MLflow are imported at first use, since a request's schema does not."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rayplane.nouns.dataset import DatasetRef
from rayplane.nouns.feature import FeatureViewVersion
from rayplane.nouns.model import Gate, GateReport, Threshold
from rayplane.runtime.models.card import (
    Derived,
    FeatureColumn,
    ModelCard,
    RequestColumn,
    RequestSchema,
)
from rayplane.runtime.models.gate import explain, judge

if TYPE_CHECKING:
    from rayplane.runtime.models.encoding import Encoding
    from rayplane.runtime.models.package import LoadedModel, load, log
    from rayplane.runtime.models.registry import register

__all__ = [
    "DatasetRef",
    "Derived",
    "Encoding",
    "FeatureColumn",
    "FeatureViewVersion",
    "Gate",
    "GateReport",
    "LoadedModel",
    "ModelCard",
    "RequestColumn",
    "RequestSchema",
    "Threshold",
    "explain",
    "judge",
    "load",
    "log",
    "register",
]

_MODULES = {
    "Encoding": "encoding",
    "LoadedModel": "package",
    "load": "package",
    "log": "package",
    "register": "registry",
}
"""Public name -> its module, imported at the name's first use."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
