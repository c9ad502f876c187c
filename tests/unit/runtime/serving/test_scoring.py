"""The scorer with a real Booster, and features that are present, missing, or unreadable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import xgboost

from rayplane.errors import Unavailable
from rayplane.runtime.models.card import Derived, FeatureColumn, ModelCard, RequestColumn, RequestSchema
from rayplane.runtime.models.encoding import Encoding
from rayplane.runtime.models.flavors.xgboost import BoosterPredictor
from rayplane.runtime.models.package import LoadedModel
from rayplane.runtime.serving.scoring import Scorer

CARD = ModelCard(
    flavor="xgboost",
    request=RequestSchema(
        columns=[RequestColumn(name="carrier", type="string"), RequestColumn(name="at", type="instant")],
        derived=[Derived(name="minute", rule="minute_of_day", columns=["at"])],
        instant="at",
        lead_seconds=3600,
    ),
    features=[
        FeatureColumn(name="carrier", categories=["AA", "UA"]),
        FeatureColumn(name="minute"),
        FeatureColumn(name="wind"),
    ],
    feature_service="delays",
)


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    random = np.random.default_rng(2)
    matrix = np.column_stack([random.integers(0, 2, 500), random.integers(0, 1440, 500), random.random(500)])
    labels = (matrix[:, 2] + matrix[:, 1] / 1440 > 1).astype(np.float32)
    data = xgboost.DMatrix(matrix.astype(np.float32), label=labels)
    return xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 20)


class Features:
    """A fake of the online store that records its calls."""

    def __init__(self, wind: Sequence[Any]) -> None:
        self.wind = wind
        self.asked: list[tuple[str, list[dict[str, Any]], list[datetime]]] = []

    def __call__(
        self, service: str, rows: Sequence[Mapping[str, Any]], at: Sequence[datetime]
    ) -> Mapping[str, Sequence[Any]]:
        self.asked.append((service, [dict(row) for row in rows], list(at)))
        return {"wind": self.wind}


def scorer(booster: xgboost.Booster, read: Any, **changes: Any) -> Scorer:
    model = LoadedModel("models:/delay/3", CARD, Encoding(CARD.features), BoosterPredictor(booster))
    return Scorer(model, **{"service": "delay", "feature_service": None, "read_online": read, **changes})


def body(*carriers: str) -> bytes:
    return json.dumps({"instances": [{"carrier": c, "at": "2013-10-15T12:00:00Z"} for c in carriers]}).encode()


def test_a_prediction_equals_the_models_own_on_the_request_and_online_features(booster: xgboost.Booster) -> None:
    features = Features([0.25, None])
    answer = scorer(booster, features).predict(body("UA", "??"))
    matrix = np.array([[1, 720, 0.25], [np.nan, 720, np.nan]], np.float32)
    assert answer.predictions == booster.predict(xgboost.DMatrix(matrix)).tolist()
    assert answer.missing == 1


def test_features_are_read_as_of_the_lead_before_the_instant(booster: xgboost.Booster) -> None:
    features = Features([1.0])
    scorer(booster, features).predict(body("AA"))
    service, rows, at = features.asked[0]
    assert (service, rows[0]["carrier"], rows[0]["minute"]) == ("delays", "AA", 720)
    assert at == [datetime(2013, 10, 15, 11, tzinfo=UTC)]


def test_the_service_may_override_the_feature_service(booster: xgboost.Booster) -> None:
    features = Features([1.0])
    scorer(booster, features, feature_service="delays-2").predict(body("AA"))
    assert features.asked[0][0] == "delays-2"


def test_features_that_cannot_be_read_are_unavailable_and_the_error_says_why(booster: xgboost.Booster) -> None:
    def broken(*args: Any) -> Any:
        raise OSError("database is locked")

    with pytest.raises(Unavailable, match="database is locked") as caught:
        scorer(booster, broken).predict(body("AA"))
    assert caught.value.status == 503


def test_a_feature_that_the_feature_service_lacks_is_named_in_the_error(booster: xgboost.Booster) -> None:
    with pytest.raises(Unavailable, match="'wind'"):
        scorer(booster, lambda *args: {}).predict(body("AA"))


def test_the_schema_names_the_model_version_and_the_columns(booster: xgboost.Booster) -> None:
    described = scorer(booster, Features([])).describe()
    assert (described["model"], described["service"], described["feature_service"]) == (
        "delay/3",
        "delay",
        "delays",
    )
    assert [c["name"] for c in described["columns"]] == ["carrier", "at"]
