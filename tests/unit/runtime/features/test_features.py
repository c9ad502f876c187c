"""Feast through the platform: registration with lineage, point-in-time joins, verified materialization, lookup."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.errors import Failed, InvalidData, InvalidInput, NotFound, Unavailable
from rayplane.nouns.job import RunContext
from rayplane.runtime import context, datasets, features, report
from rayplane.runtime.features.asof import AsofOfflineStore
from tests.unit.runtime.features import conftest as repo
from tests.unit.runtime.features.conftest import HOUR, INSTANT, REPOSITORY, SERVICE, T0, history


def entities(rows: list[tuple[str | None, str | None, float]]) -> pa.Table:
    """(origin, tailnum, hours after T0) as entity rows, with the request's column and one that no view uses."""
    origins, planes, hours = zip(*rows, strict=True)
    return pa.table(
        {
            "flight": pa.array(range(len(rows)), pa.int32()),
            "origin": pa.array(origins, pa.string()),
            "tailnum": pa.array(planes, pa.string()),
            "minutes": pa.array([10] * len(rows), pa.int64()),
            "event_timestamp": pa.array([T0 + h * HOUR for h in hours], INSTANT),
        }
    )


def online(rows: list[tuple[str | None, str | None]], at: Any) -> dict[str, list[Any]]:
    return features.online(SERVICE, [{"origin": o, "tailnum": t, "minutes": 10} for o, t in rows], at)


def test_applying_names_each_views_dataset_version_and_records_lineage(applied: RunContext, gateway: Any) -> None:
    views = {v.view: (v.dataset, v.version) for v in features.apply(REPOSITORY)}
    assert views == {name: (name, applied.inputs[name]) for name in ("delays", "planes")}
    assert report.flush(10)
    edges = {(e["data"]["source"], e["data"]["target"]) for e in gateway.events() if e["type"] == "lineage"}
    assert edges == {(f"dataset:{n}@{v}", f"view:{n}@{v}") for n, (_, v) in views.items()}


def test_applying_again_moves_a_view_to_the_new_dataset_version(applied: RunContext) -> None:
    features.materialize(end=T0 + 3 * HOUR)
    newer = datasets.publish("delays", history([("JFK", 2, 7.0)]))
    applied.inputs["delays"] = newer.version
    assert newer.version in [v.version for v in features.apply(REPOSITORY)]
    features.materialize(end=T0 + 3 * HOUR)
    assert online([("JFK", "N1")], T0 + 3 * HOUR)["delay"] == [7.0]


def test_two_rows_of_one_entity_at_one_instant_are_refused(published: RunContext) -> None:
    published.inputs["delays"] = datasets.publish("delays", history([("JFK", 1, 1.0), ("JFK", 1, 2.0)])).version
    with pytest.raises(InvalidData, match=r"'delays' has 1 rows too many: same origin and event_timestamp"):
        features.apply(REPOSITORY)


def test_sources_that_differ_from_those_of_the_views_are_refused(published: RunContext) -> None:
    with pytest.raises(InvalidInput, match="'planes' reads dataset 'planes', not 'boats'"):
        features.apply(REPOSITORY, sources={"delays": "delays", "planes": "boats"})


@pytest.mark.parametrize(
    ("module", "says"),
    [("no.such.module", "no module 'no.such.module'"), (ModuleType("empty"), r"'empty' has no build")],
)
def test_a_missing_module_or_one_without_build_is_refused(published: RunContext, module: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        features.apply(module)


def test_a_view_over_a_file_outside_a_dataset_version_is_refused(published: RunContext, tmp_path: Any) -> None:
    module = ModuleType("stray")
    module.build = lambda source_path: repo.build(lambda name: f"{tmp_path}/{name}.parquet")  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="is no dataset version"):
        features.apply(module)


def test_without_a_feast_registry_the_error_names_the_setting_for_the_admin(make_context: Any) -> None:
    with context.override(make_context(feast=None)), pytest.raises(Unavailable, match="RAYPLANE_FEAST_REGISTRY_URL"):
        features.store()


def test_a_frame_has_the_newest_values_at_each_instant_within_the_ttl(applied: RunContext) -> None:
    rows = entities(
        [("JFK", "N1", 2), ("JFK", "N2", 1.9), ("EWR", "N3", 7), ("EWR", None, 7.1), (None, "N1", 3), ("JFK", "N1", 9)]
    )
    frame = features.training_frame(rows, SERVICE)
    assert frame.select(rows.column_names).equals(rows)
    assert frame["delay"].to_pylist() == [2.0, 1.0, 4.0, None, None, None]
    assert frame["count"].to_pylist() == [1, 0, 3, None, None, 2]
    assert frame["seats"].to_pylist() == [100, None, None, None, 100, 100]
    assert frame["total"].to_pylist() == [12.0, 11.0, 14.0, None, None, None]


def test_equal_entity_rows_are_neither_merged_nor_doubled(applied: RunContext) -> None:
    frame = features.training_frame(entities([("JFK", "N1", 2)] * 5), SERVICE)
    assert frame["flight"].to_pylist() == [0, 1, 2, 3, 4]
    assert frame["delay"].to_pylist() == [2.0] * 5


CHANGES: list[tuple[Callable[[pa.Table], pa.Table], str]] = [
    (lambda t: t.drop_columns(["minutes"]), "no column 'minutes'"),
    (lambda t: t.drop_columns(["tailnum"]), "no column 'tailnum'"),
    (lambda t: t.drop_columns(["event_timestamp"]), "no instants in a column 'event_timestamp'"),
    (lambda t: t.append_column("delay", pa.array([1.0])), "already have a column 'delay'"),
    (lambda t: t.slice(0, 0), "no entity rows"),
    (
        lambda t: t.set_column(4, "event_timestamp", pa.array([T0.replace(tzinfo=None)], pa.timestamp("us"))),
        "has no zone or has nulls",
    ),
]


@pytest.mark.parametrize(("change", "says"), CHANGES)
def test_entity_rows_that_cannot_be_joined_are_refused_naming_the_column(
    applied: RunContext, change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    with pytest.raises(InvalidData, match=says):
        features.training_frame(change(entities([("JFK", "N1", 2)])), SERVICE)


def test_an_unknown_feature_service_is_not_found_and_the_error_lists_the_known_ones(applied: RunContext) -> None:
    with pytest.raises(NotFound, match=r"'growth/early' is not registered. Known: late"):
        features.training_frame(entities([("JFK", "N1", 2)]), "early")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["JFK", "EWR"]), st.integers(0, 40), st.none() | st.floats(-9, 9, width=32)),
        min_size=1,
        max_size=12,
        unique_by=lambda row: row[:2],
    ),
    st.lists(st.tuples(st.sampled_from(["JFK", "EWR", "LGA", None]), st.integers(0, 48)), min_size=1, max_size=12),
)
def test_the_asof_join_returns_the_same_values_as_feasts_own_join(
    published: RunContext, stored: list[tuple[str, float, float | None]], asked: list[tuple[str | None, int]]
) -> None:
    published.inputs["delays"] = datasets.publish("delays", history(stored)).version
    features.apply(REPOSITORY)
    feast = features.store()
    assert feast._get_provider().offline_store.__class__ is AsofOfflineStore
    rows = entities([(origin, "N1", hours) for origin, hours in asked])
    frame = features.training_frame(rows, SERVICE)
    views = [feast.get_feature_view(name) for name in ("delays", "planes")]
    refs = ["delays:delay", "delays:count", "planes:seats", "planes:maker"]
    stock = DuckDBOfflineStore.get_historical_features(
        feast.config, views, refs, rows.to_pandas(), feast.registry, feast.project
    )
    other = stock.to_df().sort_values("flight").reset_index(drop=True)
    ours = frame.to_pandas()
    for name in ("delay", "count", "seats", "maker"):
        pd.testing.assert_series_equal(ours[name], other[name], check_dtype=False, check_exact=True)


def test_materialization_writes_each_entitys_newest_row_and_reports_it(applied: RunContext, gateway: Any) -> None:
    done = features.materialize(end=T0 + 3 * HOUR)
    assert done.rows == {"delays": 2, "planes": 2}
    assert online([("JFK", "N1"), ("EWR", "N2")], T0 + 3 * HOUR) == {
        "delay": [2.0, 4.0],
        "count": [1, 3],
        "seats": [100, None],
        "maker": ["BOEING", "AIRBUS"],
        "total": [12.0, 14.0],
    }
    assert report.flush(10)
    [event] = [e["data"] for e in gateway.events() if e["type"] == "features.materialized"]
    assert event["end"] == "2013-06-01T03:00:00Z"
    assert {v["view"]: v["version"] for v in event["views"]} == {n: applied.inputs[n] for n in ("delays", "planes")}


def test_online_equals_the_offline_join_at_the_instant_of_materialization(applied: RunContext) -> None:
    for hours in (0.5, 2, 6.5, 7.5, 8, 9, 14, 15.1, 40):
        at = T0 + hours * HOUR
        features.materialize(end=at)
        keys = [(o, t) for o in ("JFK", "EWR", "LGA", "SFO", None) for t in ("N1", "N2", "N3", None)]
        offline = features.training_frame(entities([(o, t, hours) for o, t in keys]), SERVICE)
        for name, values in online(keys, at).items():
            assert values == offline[name].to_pylist(), (hours, name)


def test_a_value_older_than_its_ttl_is_null_and_so_are_features_computed_from_it(applied: RunContext) -> None:
    features.materialize(end=T0 + 3 * HOUR)
    just, over = T0 + 8 * HOUR, T0 + 8 * HOUR + timedelta(seconds=1)
    read = online([("JFK", "N1"), ("JFK", "N1")], [just, over])
    assert read["delay"] == [2.0, None]
    assert read["total"] == [12.0, None]
    assert read["seats"] == [100, 100], "a view without TTL never expires"


def test_a_value_that_became_known_after_the_instant_is_null(applied: RunContext) -> None:
    features.materialize(end=T0 + 3 * HOUR)
    assert online([("JFK", "N1")], T0 + 1 * HOUR)["delay"] == [None]


def test_materializing_an_earlier_instant_removes_later_values(applied: RunContext) -> None:
    features.materialize(end=T0 + 9 * HOUR)
    at = T0 + 1 * HOUR
    features.materialize(end=at)
    assert online([("JFK", "N1"), ("EWR", "N1"), ("LGA", "N1")], at)["delay"] == [1.0, 4.0, None]


def test_latest_event_is_the_newest_instant_of_the_views(applied: RunContext) -> None:
    assert features.latest_event() == T0 + 9 * HOUR
    assert features.latest_event(["planes"]) == T0 - 9000 * HOUR


def test_an_instant_before_all_data_is_refused(applied: RunContext) -> None:
    with pytest.raises(InvalidData, match="Choose a later instant"):
        features.materialize(end=T0 - 10_000 * HOUR)


def test_an_instant_without_a_zone_is_refused(applied: RunContext) -> None:
    with pytest.raises(InvalidInput, match="no zone"):
        features.materialize(end=datetime(2013, 6, 1))
    with pytest.raises(InvalidInput, match="no zone"):
        online([("JFK", "N1")], datetime(2013, 6, 1))


def test_an_unknown_view_is_not_found_and_the_error_lists_the_known_ones(applied: RunContext) -> None:
    with pytest.raises(NotFound, match=r"'growth/trains'.*Known: delays, planes"):
        features.materialize(["trains"], end=T0)


def test_a_materialization_fails_if_the_online_store_lost_values(
    applied: RunContext, monkeypatch: pytest.MonkeyPatch, gateway: Any
) -> None:
    feast = features.store()
    write = feast.materialize

    def lose_one(**arguments: Any) -> None:
        write(**arguments)
        with sqlite3.connect(applied.feast.online_path) as connection:  # type: ignore[union-attr]
            connection.execute("DELETE FROM growth_delays WHERE feature_name = 'count'")

    monkeypatch.setattr(feast, "materialize", lose_one)
    with pytest.raises(Failed, match=r"does not hold what was materialized: view 'delays'"):
        features.materialize(end=T0 + 3 * HOUR)
    assert report.flush(10)
    assert "features.materialized" not in [e["type"] for e in gateway.events()]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"origin": "JFK", "minutes": 1}, "no column 'tailnum'"),
        ({"origin": "JFK", "tailnum": "N1"}, "no column 'minutes'"),
        ({"origin": "JFK", "tailnum": "N1", "minutes": "soon"}, "'minutes' does not fit its type int64"),
        ({"origin": 7, "tailnum": "N1", "minutes": 1}, "'origin' does not fit its type string"),
    ],
)
def test_a_request_with_a_missing_or_mistyped_column_is_refused_naming_it(
    applied: RunContext, row: dict[str, Any], says: str
) -> None:
    features.materialize(end=T0 + 3 * HOUR)
    with pytest.raises(InvalidData, match=says):
        features.online(SERVICE, [row], T0 + 3 * HOUR)


def test_an_online_read_of_no_rows_returns_no_values(applied: RunContext) -> None:
    assert features.online(SERVICE, [], T0) == {"delay": [], "count": [], "seats": [], "maker": [], "total": []}


def test_an_online_read_needs_one_instant_per_row(applied: RunContext) -> None:
    with pytest.raises(InvalidInput, match="2 rows but 1 instants"):
        online([("JFK", "N1")] * 2, [T0])


APPLY = """
import sys
from rayplane.nouns.job import RunContext
from rayplane.runtime import context, features
from tests.unit.runtime.features.conftest import REPOSITORY
with context.override(RunContext.model_validate_json(sys.argv[1])):
    for _ in range(3):
        features.apply(REPOSITORY)
    print([service.name for service in features.store().list_feature_services()])
"""


def test_projects_that_apply_to_one_registry_at_once_all_succeed(applied: RunContext) -> None:
    contexts = []
    for project in ("growth", "risk"):
        feast = applied.feast.model_copy(update={"project": project})  # type: ignore[union-attr]
        contexts.append(applied.model_copy(update={"feast": feast, "gateway_url": applied.gateway_url}))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", APPLY, ctx.model_dump_json()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for ctx in contexts
    ]
    for worker in workers:
        output, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
        assert "['late']" in output


def test_one_row_is_read_in_milliseconds(applied: RunContext) -> None:
    features.materialize(end=T0 + 3 * HOUR)
    online([("JFK", "N1")], T0 + 3 * HOUR)
    spent = []
    for _ in range(50):
        started = time.thread_time()
        online([("JFK", "N1")], T0 + 3 * HOUR)
        spent.append(time.thread_time() - started)
    assert float(np.median(spent)) < 0.01
