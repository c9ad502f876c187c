"""A real Booster logged to a real MLflow store, and registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import xgboost
from mlflow import MlflowClient

from rayplane.errors import Failed, InvalidData, Unsupported
from rayplane.nouns.job import RunContext
from rayplane.runtime import models, report
from rayplane.runtime.models import package
from rayplane.runtime.models.card import ModelCard


@pytest.fixture
def logged(booster: xgboost.Booster, card: ModelCard, table: pa.Table, run: str) -> str:
    return models.log(booster, card, table.slice(0, 5), run_id=run)


def test_a_logged_model_is_loaded_with_its_card_and_scores_as_the_booster_does(
    logged: str, booster: xgboost.Booster, card: ModelCard, table: pa.Table
) -> None:
    loaded = models.load(logged)
    assert loaded.card == card
    matrix = loaded.encoding.matrix(table)
    own = booster.predict(xgboost.DMatrix(matrix, feature_names=["carrier", "wind"]))
    np.testing.assert_array_equal(loaded.score(table), own)
    assert len(set(own.tolist())) > 1


def test_mlflows_own_loaders_load_the_model_and_predict_the_same(logged: str, table: pa.Table) -> None:
    frame = table.to_pandas()
    predicted = mlflow.pyfunc.load_model(logged).predict(frame)
    np.testing.assert_array_equal(predicted["late_probability"].to_numpy(np.float32), models.load(logged).score(table))
    assert isinstance(mlflow.xgboost.load_model(logged), xgboost.Booster)


def test_the_model_records_signature_example_and_requirements(logged: str) -> None:
    info = mlflow.models.get_model_info(logged)
    assert [(c.name, c.type.name, c.required) for c in info.signature.inputs] == [
        ("carrier", "string", False),
        ("wind", "double", False),
    ]
    assert info.saved_input_example_info is not None
    requirements = (Path(mlflow.artifacts.download_artifacts(logged)) / "requirements.txt").read_text()
    assert f"xgboost-cpu=={xgboost.__version__}" in requirements or f"xgboost=={xgboost.__version__}" in requirements


def test_the_model_belongs_to_its_run_and_the_runs_experiment(logged: str, run: str, experiment: str) -> None:
    assert mlflow.get_logged_model(logged.removeprefix("models:/")).experiment_id == experiment
    assert [m.model_id for m in MlflowClient().get_run(run).outputs.model_outputs] == [logged.removeprefix("models:/")]


def test_a_model_that_predicts_differently_through_mlflow_is_refused(
    booster: xgboost.Booster, card: ModelCard, table: pa.Table, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Skewed:
        def predict(self, matrix: Any) -> Any:
            return np.asarray(booster.inplace_predict(matrix), np.float32) + 0.25

    real = package.load
    monkeypatch.setattr(
        package, "load", lambda uri: package.LoadedModel(uri, real(uri).card, real(uri).encoding, Skewed())
    )
    with pytest.raises(Failed, match="as it would be served"):
        models.log(booster, card, table.slice(0, 5), run_id=run)


def test_an_unknown_flavor_is_refused_listing_the_known_ones(
    booster: xgboost.Booster, card: ModelCard, table: pa.Table, run: str
) -> None:
    with pytest.raises(Unsupported, match="xgboost"):
        models.log(booster, card.model_copy(update={"flavor": "abacus"}), table, run_id=run)


def test_loading_a_model_without_a_card_is_refused(booster: xgboost.Booster, tmp_path: Any) -> None:
    mlflow.xgboost.save_model(booster, str(tmp_path / "m"), pip_requirements=["xgboost"])
    with pytest.raises(InvalidData, match="no card"):
        models.load(str(tmp_path / "m"))


def test_a_model_is_registered_once_and_the_alias_follows(
    logged: str, run: str, job: RunContext, gateway: Any, table: pa.Table
) -> None:
    first = models.register("flight-delay", model_uri=logged, run_id=run, alias="champion")
    again = models.register("flight-delay", model_uri=logged, run_id=run, alias="champion")
    assert (first.version, again.version) == ("1", "1")
    assert len(MlflowClient().search_model_versions("name = 'flight-delay'")) == 1
    by_alias = models.load("models:/flight-delay@champion")
    np.testing.assert_array_equal(by_alias.score(table), models.load("models:/flight-delay/1").score(table))
    assert report.flush(10)
    registered = [e["data"] for e in gateway.events() if e["type"] == "model.registered"]
    assert (registered[0]["name"], registered[0]["version"], registered[0]["run_id"]) == ("flight-delay", "1", run)
    assert registered[0]["aliases"] == ["champion"]


def test_another_model_of_the_same_run_is_another_version(
    booster: xgboost.Booster, card: ModelCard, table: pa.Table, run: str, job: RunContext
) -> None:
    uris = [models.log(booster, card, table.slice(0, 5), run_id=run) for _ in range(2)]
    versions = [models.register("twice", model_uri=uri, run_id=run, alias="champion").version for uri in uris]
    assert versions == ["1", "2"]
    assert int(MlflowClient().get_model_version_by_alias("twice", "champion").version) == 2
