"""Quota: demands that fit and that do not; shrinking always fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.errors import Refused
from rayplane.gateway.admission.quota import demand, exceeded, require, total
from rayplane.nouns.cluster import ClusterSpec, Workers
from rayplane.nouns.team import Quota, Size, Usage

SMALL = Size(cpu=8, memory=2.0**33, gpu=1)
amounts = st.floats(0, 1e6, allow_nan=False)
usages = st.builds(Usage, clusters=st.integers(0, 100), cpu=amounts, memory=amounts, gpu=amounts)


def test_a_cluster_demands_its_head_and_all_its_workers() -> None:
    wanted = demand(ClusterSpec(workers=Workers(min=1, max=3)), SMALL)
    assert (wanted.clusters, wanted.cpu, wanted.memory, wanted.gpu) == (1, 32, 2.0**35, 4)


@pytest.mark.parametrize("spec", [ClusterSpec(suspended=True), ClusterSpec(address="http://127.0.0.1:8265")])
def test_a_suspended_or_foreign_cluster_demands_no_compute(spec: ClusterSpec) -> None:
    assert demand(spec, SMALL) == Usage(clusters=1)


def test_every_exceeded_quota_is_listed_with_its_amounts() -> None:
    quota = Quota(cpu=10, memory="4Gi", gpu=8, clusters=1)
    with pytest.raises(Refused) as caught:
        require(quota, Usage(clusters=1, cpu=4), demand(ClusterSpec(), SMALL), what="Cluster 'growth/dev'")
    assert str(caught.value).startswith(
        "Cluster 'growth/dev' does not fit: quota 'clusters' is exceeded (1 used + 1 wanted of 1); "
        "quota 'cpu' is exceeded (4 used + 8 wanted of 10 cores); "
        "quota 'memory' is exceeded (0 used + 8 wanted of 4 GiB)."
    )


def test_the_last_of_a_quota_may_be_taken_in_spite_of_rounding() -> None:
    assert exceeded(Quota(cpu=0.3), Usage(cpu=0.1), Usage(cpu=0.2)) == []


def test_a_demand_that_does_not_grow_fits_even_above_a_lowered_quota() -> None:
    before = Usage(clusters=1, cpu=32)
    assert exceeded(Quota(cpu=8, clusters=0), Usage(cpu=100), Usage(clusters=1, cpu=16), before) == []
    assert len(exceeded(Quota(cpu=8, clusters=0), Usage(cpu=100), Usage(clusters=1, cpu=33), before)) == 1


@given(usages, usages)
def test_without_a_quota_everything_fits(others: Usage, wanted: Usage) -> None:
    assert exceeded(Quota(), others, wanted) == []


@given(usages, usages, amounts)
def test_more_demand_or_less_quota_never_makes_room(others: Usage, wanted: Usage, limit: float) -> None:
    reasons = exceeded(Quota(cpu=limit), others, wanted)
    more = wanted.model_copy(update={"cpu": wanted.cpu * 2 + 1})
    assert len(exceeded(Quota(cpu=limit), others, more)) >= len(reasons)
    assert len(exceeded(Quota(cpu=limit / 2), others, wanted)) >= len(reasons)


@given(st.lists(usages, max_size=5), usages)
def test_the_same_cluster_again_always_fits(others: list[Usage], wanted: Usage) -> None:
    assert exceeded(Quota(cpu=0, memory=0, gpu=0, clusters=0), total(others), wanted, wanted) == []


@given(st.lists(usages, max_size=6))
def test_the_total_counts_every_cluster(summands: list[Usage]) -> None:
    assert total(summands).clusters == sum(u.clusters for u in summands)
    assert total(summands).cpu == pytest.approx(sum(u.cpu for u in summands))
