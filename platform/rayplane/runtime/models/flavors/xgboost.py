"""The `xgboost` flavor: a Booster as an MLflow model that serving scores without a DataFrame.

The folder is MLflow's own XGBoost model, so ``mlflow.xgboost.load_model`` returns the Booster; only its pyfunc is
ours: it takes the features as the card lists them, texts as texts, and encodes them as the card says.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlflow.xgboost
import numpy as np
import xgboost
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME

from rayplane.runtime.models.encoding import Encoding, Matrix
from rayplane.runtime.models.flavors.base import PyFunc
from rayplane.runtime.models.package import LoadedModel, Scores, card_of

FILE = "model.ubj"


class XGBoostFlavor:
    """The flavor of Boosters that predict one number for each row."""

    name = "xgboost"
    requirements = ("xgboost-cpu|xgboost", "numpy", "pandas", "pyarrow")

    def save_model(self, path: str, mlflow_model: Model, *, model: xgboost.Booster, **kwargs: Any) -> None:
        """Write MLflow's XGBoost model, with our pyfunc in place of its own."""
        kwargs.pop("validate_serving_input", None)
        mlflow.xgboost.save_model(model, path, mlflow_model=mlflow_model, **kwargs)
        mlflow_model.flavors["python_function"].update(loader_module=__name__, data=".")
        mlflow_model.save(os.path.join(path, MLMODEL_FILE_NAME))

    def load(self, path: str) -> BoosterPredictor:
        """Load the Booster from a local folder."""
        booster = xgboost.Booster(model_file=str(Path(path) / FILE))
        return BoosterPredictor(booster)


class BoosterPredictor:
    """Score float32 matrices in place, without making a DataFrame or a DMatrix."""

    def __init__(self, booster: xgboost.Booster) -> None:
        # One thread per replica: serving scales by replicas, and scoring a row is too little work for several threads.
        booster.set_param({"nthread": 1})
        self.booster = booster

    def predict(self, matrix: Matrix) -> Scores:
        """One prediction for each row. XGBoost's in-place prediction is safe to call from several threads."""
        return np.asarray(self.booster.inplace_predict(matrix, validate_features=False), dtype=np.float32)


def _load_pyfunc(path: str) -> PyFunc:
    """Load the model for MLflow, which calls this by name; ``path`` is the model's folder."""
    card = card_of(Model.load(path), path)
    predictor = XGBoostFlavor().load(path)
    return PyFunc(LoadedModel(uri=path, card=card, encoding=Encoding(card.features), predictor=predictor))
