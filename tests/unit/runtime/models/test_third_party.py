"""A third party's flavor: a model of it is logged to a real MLflow store, loaded and scored."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest

from rayplane.errors import Unsupported
from rayplane.runtime import models
from rayplane.runtime.models.card import ModelCard

pytestmark = pytest.mark.usefixtures("third_party")

WEIGHTS = np.array([0.5, 2.0], np.float32)


def test_a_model_of_a_third_partys_flavor_is_logged_loaded_and_scored(
    card: ModelCard, table: pa.Table, run: str
) -> None:
    uri = models.log(WEIGHTS, card.model_copy(update={"flavor": "linear"}), table.slice(0, 5), run_id=run)
    loaded = models.load(uri)
    expected = np.nan_to_num(loaded.encoding.matrix(table)) @ WEIGHTS
    np.testing.assert_array_equal(loaded.score(table), expected.astype(np.float32))
    assert len(set(expected.tolist())) > 10
    through_mlflow = mlflow.pyfunc.load_model(uri).predict(table.to_pandas())["late_probability"]
    np.testing.assert_array_equal(through_mlflow.to_numpy(np.float32), loaded.score(table))


def test_the_logged_model_requires_the_flavors_distribution(card: ModelCard, table: pa.Table, run: str) -> None:
    uri = models.log(WEIGHTS, card.model_copy(update={"flavor": "linear"}), table.slice(0, 5), run_id=run)
    requirements = Path(mlflow.artifacts.download_artifacts(uri), "requirements.txt").read_text()
    assert "acme-rayplane==1.2.0" in requirements.splitlines()


def test_a_misspelt_flavor_is_refused_with_the_nearest_known_one(card: ModelCard, table: pa.Table, run: str) -> None:
    with pytest.raises(Unsupported, match=r"'liner' is not in flavors. Did you mean 'linear'\?"):
        models.log(WEIGHTS, card.model_copy(update={"flavor": "liner"}), table, run_id=run)
