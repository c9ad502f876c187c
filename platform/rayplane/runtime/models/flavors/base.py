"""The model as MLflow calls it, which flavors share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rayplane.runtime.models.package import LoadedModel

if TYPE_CHECKING:
    import pandas as pd


class PyFunc:
    """A loaded model of any flavor as ``mlflow.pyfunc`` calls it."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One prediction for each row of the card's features."""
        import pandas as pd

        del params
        table = pa.Table.from_pandas(frame, preserve_index=False)
        return pd.DataFrame({self._model.card.output: self._model.score(table)})
