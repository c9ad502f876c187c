"""Package and judge models."""

from __future__ import annotations

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
from rayplane.runtime.models.encoding import Encoding
from rayplane.runtime.models.gate import explain, judge
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
