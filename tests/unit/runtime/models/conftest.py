"""A small model with a text feature, a missing value and online features, and a real store to log it to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import xgboost
from mlflow import MlflowClient

from rayplane.runtime.models.card import FeatureColumn, ModelCard, RequestColumn, RequestSchema
from rayplane.runtime.models.encoding import Encoding
from tests.support import mlflow_store


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_store.store(tmp_path_factory.mktemp("mlflow")) as experiment_id:
        yield experiment_id


@pytest.fixture
def run(experiment: str) -> str:
    return str(MlflowClient().create_run(experiment).info.run_id)


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        flavor="xgboost",
        request=RequestSchema(columns=[RequestColumn(name="carrier", type="string")]),
        features=[FeatureColumn(name="carrier", categories=["AA", "UA"]), FeatureColumn(name="wind")],
        output="late_probability",
    )


@pytest.fixture
def table() -> pa.Table:
    random = np.random.default_rng(1)
    carriers = random.choice(["AA", "UA", "??"], 400).tolist()
    wind = [None if index % 7 == 0 else value for index, value in enumerate(random.random(400).tolist())]
    return pa.table({"carrier": carriers, "wind": pa.array(wind, pa.float32())})


@pytest.fixture
def booster(card: ModelCard, table: pa.Table) -> xgboost.Booster:
    matrix = Encoding(card.features).matrix(table)
    labels = (np.nan_to_num(matrix[:, 1]) + (matrix[:, 0] == 1) > 0.8).astype(np.float32)
    data = xgboost.DMatrix(matrix, label=labels, feature_names=["carrier", "wind"])
    return xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 10)
