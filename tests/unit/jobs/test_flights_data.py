"""Split, encoding and baseline; on the full data, the model's AUC compared with its thresholds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features import definitions
from jobs import flights_data
from jobs.flights_data import FEATURES, LABEL, BadInput
from tests.unit.jobs.asof import asof_join


def with_labels(flights: pa.Table, features: dict[str, pa.Table]) -> pa.Table:
    joined = asof_join(flights, features, definitions.TTLS)
    ordered = flights.sort_by("flight_id")
    for name in (*flights_data.REQUEST_FEATURES, LABEL, "scheduled_at", "month"):
        joined = joined.append_column(name, ordered[name])
    return joined


@pytest.fixture(scope="module")
def rows(prepared: dict[str, pa.Table], feature_tables: dict[str, pa.Table]) -> pa.Table:
    return with_labels(prepared["flights"], feature_tables)


def auc(late: npt.NDArray[np.float32], scores: npt.NDArray[np.floating]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(late, scores))


def test_the_year_splits_by_months(whole_year: dict[str, pa.Table]) -> None:
    parts = flights_data.split(whole_year["flights"])
    assert [sorted(set(part["month"].to_pylist())) for part in parts] == [list(range(1, 9)), [9], [10, 11, 12]]
    assert sum(part.num_rows for part in parts) == 327_346


def test_a_slice_splits_by_time_into_three_parts(rows: pa.Table) -> None:
    parts = flights_data.split(rows)
    labelled = sum(part.num_rows for part in parts)
    assert labelled == rows.num_rows - rows[LABEL].null_count
    assert [round(part.num_rows / labelled, 2) for part in parts] == [0.70, 0.15, 0.15]
    for earlier, later in pairwise(parts):
        assert pc.max(earlier["scheduled_at"]).as_py() < pc.min(later["scheduled_at"]).as_py()


def test_too_few_rows_to_split_are_refused(rows: pa.Table) -> None:
    with pytest.raises(BadInput, match=r"is empty\. Use a longer span of flights"):
        flights_data.split(rows.filter(pc.is_valid(rows[LABEL])).slice(0, 1))
    with pytest.raises(BadInput, match="no labelled rows"):
        flights_data.split(rows.slice(0, 0))


def test_the_matrix_has_one_column_per_feature_and_nan_for_missing_values(rows: pa.Table) -> None:
    matrix = flights_data.to_matrix(rows)
    assert matrix.shape == (rows.num_rows, len(FEATURES))
    assert matrix.dtype == np.float32
    for name in ("humid", "plane_seats", "route_arr_delay_3h"):
        assert np.isnan(matrix[:, FEATURES.index(name)]).sum() == rows[name].null_count


def test_the_encoding_of_a_text_does_not_depend_on_other_rows(rows: pa.Table) -> None:
    whole = flights_data.to_matrix(rows)
    assert np.array_equal(whole[5:8], flights_data.to_matrix(rows.slice(5, 3)), equal_nan=True)
    column = FEATURES.index("carrier")
    codes = [flights_data.CARRIERS.index(carrier) for carrier in rows["carrier"].to_pylist()]
    assert whole[:, column].tolist() == codes


def test_an_unknown_category_is_missing(rows: pa.Table) -> None:
    row = rows.slice(0, 1)
    row = row.set_column(row.column_names.index("carrier"), "carrier", pa.array(["ZZ"]))
    assert np.isnan(flights_data.to_matrix(row)[0, FEATURES.index("carrier")])


def test_the_known_categories_are_sorted_and_include_all_carriers_and_origins(rows: pa.Table) -> None:
    assert all(list(values) == sorted(values) for values in flights_data.CATEGORIES.values())
    assert set(rows["carrier"].to_pylist()) <= set(flights_data.CARRIERS)
    assert set(rows["origin"].to_pylist()) == set(flights_data.ORIGINS)


def test_a_missing_feature_is_named_in_the_error(rows: pa.Table) -> None:
    with pytest.raises(BadInput, match=r"lack the feature\(s\) humid"):
        flights_data.to_matrix(rows.drop_columns(["humid"]))


def test_labels_of_unlabelled_rows_are_refused(rows: pa.Table) -> None:
    with pytest.raises(BadInput, match="have no 'late'"):
        flights_data.labels(rows)


def test_the_baseline_is_the_late_rate_of_carrier_and_hour() -> None:
    train = pa.table(
        {"carrier": ["UA", "UA", "UA", "DL"], "scheduled_minute": [60, 119, 120, 60], "late": [1, 0, 1, 0]}
    )
    asked = pa.table({"carrier": ["UA", "UA", "UA", "DL", "ZZ"], "scheduled_minute": [61, 125, 600, 900, 60]})
    assert flights_data.baseline_scores(train, asked).tolist() == pytest.approx([0.5, 1.0, 2 / 3, 0.0, 0.5])


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_model_reaches_its_thresholds_on_the_test_quarter(
    whole_year: dict[str, pa.Table], whole_year_features: dict[str, pa.Table]
) -> None:
    import xgboost

    train, _, test = flights_data.split(with_labels(whole_year["flights"], whole_year_features))
    data = xgboost.QuantileDMatrix(flights_data.to_matrix(train), flights_data.labels(train), max_bin=128)
    booster = xgboost.train({**flights_data.XGB_PARAMS, "nthread": 2}, data, flights_data.NUM_BOOST_ROUND)
    late = flights_data.labels(test)
    reached = auc(late, booster.inplace_predict(flights_data.to_matrix(test)))
    baseline = auc(late, flights_data.baseline_scores(train, test))
    assert reached >= 0.755
    assert reached - baseline >= 0.11
