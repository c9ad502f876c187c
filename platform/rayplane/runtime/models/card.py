"""The card of a model: the request, features and encoding that serving needs, and the model's origin."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rayplane.nouns.base import Record
from rayplane.nouns.dataset import DatasetRef
from rayplane.nouns.environment import Environment
from rayplane.nouns.feature import FeatureViewVersion

METADATA_KEY = "rayplane"
"""Key of the card in an MLflow model's metadata."""

ColumnType = Literal["string", "integer", "number", "boolean", "instant"]
"""JSON types of a request's column; ``instant`` is a string in ISO 8601 with a zone."""

Rule = Literal["join", "lookup", "minute_of_day", "day_of_year", "weekday", "month"]


class RequestColumn(Record):
    """One column that a client sends."""

    name: str
    type: ColumnType
    required: bool = True
    default: Any = None
    """Value of an optional column that is absent or null; None: a missing value."""
    description: str = ""
    example: Any = None


class Derived(Record):
    """A column computed from the request unless the client sent it. Rules:

    ``join``: the texts of ``columns`` with ``separator`` between; ``lookup``: ``table[text of the column]``,
    missing if it is not there; of an instant, in the local time of ``zone``: ``minute_of_day`` 0-1439,
    ``day_of_year`` 1-366, ``weekday`` 1 (Monday) - 7, ``month`` 1-12. Anything computed from a missing value
    is missing.
    """

    name: str
    rule: Rule
    columns: list[str] = Field(min_length=1)
    separator: str = "-"
    zone: str = "UTC"
    table: dict[str, Any] = Field(default_factory=dict)


class RequestSchema(Record):
    """The columns of one instance of a request, and those computed from them before features are read."""

    columns: list[RequestColumn]
    derived: list[Derived] = Field(default_factory=list)
    """In the order in which they are computed: a later one may use an earlier one."""
    instant: str | None = None
    """Name of the column with the predicted event's instant; None: features are read as of now."""
    lead_seconds: float = 0
    """Seconds before ``instant`` as of which features are read."""


class FeatureColumn(Record):
    """One column of the model's matrix. The code of a text is its index in ``categories``; other texts are missing."""

    name: str
    categories: list[str] | None = None


class ModelCard(Record):
    """Everything that serving needs beside the model's own file, and the model's origin."""

    flavor: str
    request: RequestSchema
    features: list[FeatureColumn] = Field(min_length=1)
    """In the order of the matrix's columns."""
    feature_service: str | None = None
    """Feast feature service whose values complete the request; None: the request holds all features."""
    feature_views: list[FeatureViewVersion] = Field(default_factory=list)
    datasets: list[DatasetRef] = Field(default_factory=list)
    environment: Environment | None = None
    git_commit: str | None = None
    output: str = "prediction"
    """Name of the predicted value, such as ``late_probability``."""
