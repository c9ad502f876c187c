"""A model flavor: a linear model, which is an array with the weight of each feature."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
from mlflow.models import Model

from rayplane.runtime.models.encoding import Matrix
from rayplane.runtime.models.flavors.base import PyFunc
from rayplane.runtime.models.package import Scores, load

WEIGHTS = "weights.npy"


class LinearFlavor:
    """The flavor of arrays of weights."""

    name = "linear"
    requirements = ("acme-rayplane", "numpy", "pyarrow")

    def save_model(self, path: str, mlflow_model: Model, *, model: npt.NDArray[np.float32], **kwargs: Any) -> None:
        """Write the weights as the data of an MLflow model that this module loads."""
        kwargs.pop("validate_serving_input", None)
        with TemporaryDirectory() as folder:
            file = Path(folder, WEIGHTS)
            np.save(file, model)
            mlflow.pyfunc.save_model(path, loader_module=__name__, data_path=file, mlflow_model=mlflow_model, **kwargs)

    def load(self, path: str) -> LinearPredictor:
        """Load the weights from a local folder."""
        return LinearPredictor(np.load(Path(path, "data", WEIGHTS)))


class LinearPredictor:
    """Adds up the weighted features; a missing one counts nothing."""

    def __init__(self, weights: npt.NDArray[np.float32]) -> None:
        self._weights = weights

    def predict(self, matrix: Matrix) -> Scores:
        """One sum for each row."""
        return np.asarray(np.nan_to_num(matrix) @ self._weights, dtype=np.float32)


def _load_pyfunc(path: str) -> PyFunc:
    """Load the model for MLflow, which calls this by name; ``path`` is that of the weights."""
    return PyFunc(load(str(Path(path).parents[1])))
