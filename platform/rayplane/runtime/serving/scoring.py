"""Answer a request with a loaded model: check, derive, read features, encode, score. Independent of HTTP and Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rayplane.errors import Failed, Unavailable
from rayplane.nouns.base import utcnow
from rayplane.runtime.serving.request import MAX_INSTANCES, complete, describe, instant_of, parse

if TYPE_CHECKING:
    from rayplane.runtime.models import LoadedModel

ReadOnline = Callable[[str, Sequence[Mapping[str, Any]], Sequence[datetime]], Mapping[str, Sequence[Any]]]
"""Function (feature service, rows, instants) -> {feature: one value for each row}; None for a missing value."""


@dataclass(frozen=True)
class Answer:
    """Predictions in the order of the instances, and the number of missing feature values in all of them."""

    predictions: list[float]
    missing: int


class Scorer:
    """One model version behind one service."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        service: str,
        feature_service: str | None,
        read_online: ReadOnline,
        max_instances: int = MAX_INSTANCES,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self.model = model
        self.name = model.uri.removeprefix("models:/")
        self._service = service
        self._feature_service = feature_service or model.card.feature_service
        self._read_online = read_online
        self._max_instances = max_instances
        self._clock = clock

    def describe(self) -> dict[str, Any]:
        """The schema for clients."""
        card = self.model.card
        return {
            "service": self._service,
            "model": self.name,
            "prediction": card.output,
            "feature_service": self._feature_service,
            "max_instances": self._max_instances,
            "columns": describe(card.request),
            "example": {"instances": [{c.name: c.example for c in card.request.columns if c.example is not None}]},
        }

    def predict(self, body: bytes) -> Answer:
        """Predict the instances of a request's body.

        Raises Malformed, TooLarge and InvalidData as ``request.parse`` does; Unavailable if features can't be read, or
        if the feature service lacks one that the model needs; Failed if it returns too few or too many values.
        """
        schema = self.model.card.request
        rows = [complete(row, schema) for row in parse(body, schema, max_instances=self._max_instances)]
        columns: dict[str, Sequence[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
        if self._feature_service is not None:
            now = self._clock()
            columns.update(self._features(rows, [instant_of(row, schema, now) for row in rows]))
        absent = [name for name in self.model.encoding.names if name not in columns]
        if absent:
            raise Unavailable(
                f"Feature service '{self._feature_service}' does not give '{absent[0]}', "
                f"with which model {self.name} was trained.",
                remedy="Serve the model with the feature service of its training.",
            )
        matrix = self.model.encoding.rows(columns, len(rows))
        missing = sum(1 for name in self.model.encoding.names for value in columns[name] if value is None)
        return Answer(predictions=self.model.predictor.predict(matrix).tolist(), missing=missing)

    def _features(self, rows: Sequence[Mapping[str, Any]], at: Sequence[datetime]) -> Mapping[str, Sequence[Any]]:
        assert self._feature_service is not None
        try:
            features = self._read_online(self._feature_service, rows, at)
        # The client can do the same about any error of the online store's driver: retry.
        except Exception as exc:
            raise Unavailable(
                f"The features of '{self._feature_service}' can't be read: {exc}",
                remedy="Try again soon; see that the features are applied and materialized.",
            ) from exc
        wrong = [name for name, values in features.items() if len(values) != len(rows)]
        if wrong:
            raise Failed(f"Feature '{wrong[0]}' has {len(features[wrong[0]])} values for {len(rows)} rows.")
        return features
