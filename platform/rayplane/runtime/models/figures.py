"""Figures that judge a binary classifier: ranking, calibration, slices. Pure; all shapes are (rows,)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from rayplane.errors import InvalidData

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Rows with neighbouring predictions: their number, mean prediction, and observed rate of positives."""

    rows: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Slice:
    """The rows with one value of a column. ``auc`` is None if only one outcome occurs."""

    value: str
    rows: int
    rate: float
    auc: float | None


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Probability that a positive row scores above a negative one, ties counting half.

    Raises InvalidData if only one outcome occurs.
    """
    y, s = _pair(labels, scores)
    positives = int(y.sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        raise InvalidData(
            "Only one outcome occurs, so nothing can be ranked.", remedy="Judge on a longer span of rows."
        )
    _, index, counts = np.unique(s, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2.0)[index]
    return float((ranks[y == 1].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def log_loss(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Mean negative log likelihood (nats), with predictions clipped to 1e-7 away from 0 and 1."""
    y, s = _pair(labels, scores)
    s = np.clip(s, 1e-7, 1 - 1e-7)
    return float(-np.mean(y * np.log(s) + (1 - y) * np.log1p(-s)))


def brier(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Mean squared difference between prediction and outcome."""
    y, s = _pair(labels, scores)
    return float(np.mean((s - y) ** 2))


def reliability(labels: npt.ArrayLike, scores: npt.ArrayLike, bins: int = 10) -> list[Bin]:
    """Sort the rows by prediction and cut them into ``bins`` equally large parts (fewer if there are fewer rows)."""
    y, s = _pair(labels, scores)
    order = np.argsort(s, kind="stable")
    return [
        Bin(rows=len(part), predicted=float(s[part].mean()), observed=float(y[part].mean()))
        for part in np.array_split(order, min(bins, len(order)))
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean distance of predicted and observed rate over the bins, weighted by rows."""
    total = sum(part.rows for part in bins)
    return sum(part.rows * abs(part.predicted - part.observed) for part in bins) / total


def slices(values: Sequence[str | None], labels: npt.ArrayLike, scores: npt.ArrayLike) -> list[Slice]:
    """The slice of each value of a column, and one of the rows without a value; the largest first."""
    y, s = _pair(labels, scores)
    column = np.array(["(missing)" if value is None else value for value in values], dtype=object)
    if len(column) != len(y):
        raise InvalidData(f"{len(column)} values of the slice's column for {len(y)} rows.")
    parts = []
    for value in sorted(set(column.tolist())):
        inside = column == value
        mixed = 0 < y[inside].sum() < inside.sum()
        parts.append(
            Slice(
                value=value,
                rows=int(inside.sum()),
                rate=float(y[inside].mean()),
                auc=auc(y[inside], s[inside]) if mixed else None,
            )
        )
    return sorted(parts, key=lambda part: (-part.rows, part.value))


def worst(parts: Sequence[Slice], min_rows: int) -> Slice | None:
    """The slice with the lowest AUC among those of at least ``min_rows`` rows; None if none of these has an AUC."""
    judged = [part for part in parts if part.rows >= min_rows and part.auc is not None]
    return min(judged, key=lambda part: (part.auc, part.value), default=None)


def roc(labels: npt.ArrayLike, scores: npt.ArrayLike, points: int = 200) -> tuple[Floats, Floats]:
    """The ROC curve as (false positive rate, true positive rate), thinned to about ``points`` with both ends."""
    y, s = _pair(labels, scores)
    order = np.argsort(-s, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(s[order])), len(s) - 1)
    hits = np.cumsum(y[order])[ends]
    misses = 1 + ends - hits
    rates = [np.concatenate([[0.0], side / max(float(side[-1]), 1.0)]) for side in (misses, hits)]
    indices = np.unique(np.linspace(0, len(rates[0]) - 1, min(points, len(rates[0]))).round().astype(int))
    return rates[0][indices], rates[1][indices]


def plain(items: Sequence[Bin | Slice]) -> list[dict[str, object]]:
    """Bins or slices as JSON objects."""
    return [asdict(item) for item in items]


def _pair(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    y, s = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1 or not len(y):
        raise InvalidData(f"Labels of shape {y.shape} and predictions of shape {s.shape} do not pair.")
    if not np.isin(y, (0.0, 1.0)).all() or not np.isfinite(s).all():
        raise InvalidData("A label is neither 0 nor 1, or a prediction is not finite.")
    return y, s
