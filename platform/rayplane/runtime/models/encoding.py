"""Turn feature columns into the model's float32 matrix, as its card records the encoding. Pure.

Training's check, batch scoring and serving encode alike: a number is itself, a text its index in the known categories,
and a missing or unknown value is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplane.errors import InvalidData
from rayplane.runtime.models.card import FeatureColumn

Matrix = npt.NDArray[np.float32]


class Encoding:
    """The encoding of the features of one model."""

    def __init__(self, features: Sequence[FeatureColumn]) -> None:
        self.names = [feature.name for feature in features]
        self._categories = {f.name: f.categories for f in features if f.categories is not None}
        self._codes = {n: {text: float(i) for i, text in enumerate(c)} for n, c in self._categories.items()}

    def matrix(self, table: pa.Table) -> Matrix:
        """The features of a table, shape (rows, features). Raises InvalidData naming the columns that it lacks."""
        self._require(table.column_names)
        matrix = np.empty((table.num_rows, len(self.names)), dtype=np.float32)
        for index, name in enumerate(self.names):
            column: Any = table[name]
            if name in self._categories:
                known = pa.array(self._categories[name], pa.string())
                column = pc.index_in(column.cast(pa.string()), value_set=known)
            matrix[:, index] = column.cast(pa.float32()).to_numpy(zero_copy_only=False)
        return matrix

    def rows(self, columns: Mapping[str, Sequence[Any]], count: int) -> Matrix:
        """The features of ``count`` rows, passed as column -> plain values, shape (count, features): fast for few rows.

        None is missing. Raises InvalidData naming the absent columns, or a column with a value that is no number.
        """
        self._require(columns)
        matrix = np.empty((count, len(self.names)), dtype=np.float32)
        for index, name in enumerate(self.names):
            codes = self._codes.get(name)
            values = columns[name]
            try:
                if codes is not None:
                    matrix[:, index] = [codes.get(value, np.nan) for value in values]
                else:
                    matrix[:, index] = [np.nan if value is None else value for value in values]
            except (TypeError, ValueError) as exc:
                raise InvalidData(f"Feature '{name}' is not a number in every row: {exc}.") from exc
        return matrix

    def _require(self, present: Iterable[str]) -> None:
        columns = set(present)
        missing = [name for name in self.names if name not in columns]
        if missing:
            raise InvalidData(
                f"The rows lack the feature(s) {', '.join(missing)}.",
                remedy="Build them with the feature service that the model was trained with.",
            )
