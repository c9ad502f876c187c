"""Dataset versions, the step cache, operations, idempotency keys, leadership."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rayplane.errors import Conflict, NotFound
from rayplane.gateway.store import Store
from rayplane.nouns.dataset import Column, DatasetRef, DatasetVersion
from rayplane.nouns.events import Operation
from rayplane.nouns.job import Output
from rayplane.nouns.pipeline import StepResult


def version(clock: Any, id: str = "a" * 16, name: str = "flights") -> DatasetVersion:
    return DatasetVersion(
        team="growth",
        name=name,
        version=id,
        content_hash=id * 4,
        uri=f"file:///root/growth/datasets/{name}/{id}",
        rows=3,
        bytes=100,
        columns=[Column(name="x", type="int64")],
        statistics={"x": {"nulls": 0, "mean": 1.5}},
        inputs=[DatasetRef(name="raw", version="b" * 16)],
        created_at=clock.now,
    )


def test_a_dataset_version_is_stored_unchanged_and_the_newest_is_the_latest(store: Store, clock: Any) -> None:
    first = version(clock, "a" * 16)
    clock.forward(hours=1)
    second = version(clock, "c" * 16)
    for v in (second, first, second):
        store.put_dataset_version(v)
    assert store.get_dataset_version("growth", "flights") == second
    assert store.get_dataset_version("growth", "flights", "a" * 16) == first
    assert store.list_dataset_versions("growth", "flights") == [second, first]


def test_a_version_that_is_published_again_is_the_latest_again(store: Store, clock: Any) -> None:
    first = version(clock, "a" * 16)
    store.put_dataset_version(first)
    clock.forward(hours=1)
    store.put_dataset_version(version(clock, "c" * 16))
    clock.forward(hours=1)
    store.put_dataset_version(first, published_at=clock.now)
    assert store.get_dataset_version("growth", "flights") == first
    # A late second delivery of the first publication changes nothing.
    store.put_dataset_version(first)
    assert store.get_dataset_version("growth", "flights") == first


def test_a_missing_version_is_answered_with_the_nearest(store: Store, clock: Any) -> None:
    store.put_dataset_version(version(clock, "abcdef0123456789"))
    with pytest.raises(NotFound, match="Did you mean 'abcdef0123456789'"):
        store.get_dataset_version("growth", "flights", "abcdef012345678")
    with pytest.raises(NotFound, match="'growth/planes' has no version"):
        store.get_dataset_version("growth", "planes")
    assert store.list_dataset_versions("ads", "flights") == []


def test_forgetting_versions_affects_one_dataset(store: Store, clock: Any) -> None:
    store.put_dataset_version(version(clock))
    store.put_dataset_version(version(clock, name="planes"))
    store.forget_dataset_versions("growth", "flights")
    store.forget_dataset_versions("growth", "flights")
    assert store.list_dataset_versions("growth", "flights") == []
    assert len(store.list_dataset_versions("growth", "planes")) == 1


def test_a_step_result_replaces_the_one_before(store: Store) -> None:
    result = StepResult(key="k", run="flights-1", job="j", outputs=[Output(kind="value", name="auc", value={"x": 1})])
    assert store.get_step_result("growth", "k") is None
    store.put_step_result("growth", result)
    again = result.model_copy(update={"run": "flights-2"})
    store.put_step_result("growth", again)
    assert store.get_step_result("growth", "k") == again
    assert store.get_step_result("ads", "k") is None


def test_an_operation_is_stored_and_replaced(store: Store) -> None:
    op = Operation(id="o1", team="growth", kind="Cluster", name="dev", uid="u", generation=1, action="apply")
    store.put_operation(op)
    store.put_operation(op.model_copy(update={"state": "failed", "message": "no"}))
    assert store.get_operation("o1").message == "no"
    with pytest.raises(NotFound):
        store.get_operation("o2")


def test_an_answer_is_remembered_for_a_day_under_its_key_and_principal(store: Store, clock: Any) -> None:
    assert store.recall("ada", "k", "f") is None
    store.remember("ada", "k", "f", {"status": 201})
    store.remember("ada", "k", "f", {"status": 500})
    assert store.recall("ada", "k", "f") == {"status": 201}
    assert store.recall("bob", "k", "f") is None
    with pytest.raises(Conflict, match="another request"):
        store.recall("ada", "k", "other")
    with pytest.raises(Conflict):
        store.remember("ada", "k", "other", {})
    clock.forward(hours=25)
    assert store.recall("ada", "k", "other") is None
    store.remember("ada", "k", "other", {"status": 202})
    assert store.recall("ada", "k", "other") == {"status": 202}


def test_one_holder_leads_until_its_time_is_over(store: Store, clock: Any) -> None:
    assert store.acquire_leadership("a", 10)
    assert not store.acquire_leadership("b", 10)
    clock.forward(seconds=9)
    assert store.acquire_leadership("a", 10)
    clock.forward(seconds=9)
    assert not store.acquire_leadership("b", 10)
    clock.forward(seconds=2)
    assert store.acquire_leadership("b", 10)
    assert not store.acquire_leadership("a", 10)


def test_released_leadership_is_free_at_once(store: Store) -> None:
    assert store.acquire_leadership("a", 3600)
    store.release_leadership("b")
    assert not store.acquire_leadership("b", 10)
    store.release_leadership("a")
    assert store.acquire_leadership("b", 10)


def test_of_many_concurrent_candidates_one_leads(store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.acquire_leadership(f"holder-{n}", 60), range(8)))
    assert won.count(True) == 1


def test_with_the_real_clock_leadership_lasts_and_expires(store_url: str) -> None:
    store = Store(store_url)
    store.migrate()
    assert store.acquire_leadership("a", 3600)
    assert not store.acquire_leadership("b", 3600)
    assert store.acquire_leadership("a", -timedelta(seconds=1).total_seconds())
    assert store.acquire_leadership("b", 1)
    store.close()
