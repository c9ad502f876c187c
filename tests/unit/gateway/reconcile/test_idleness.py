"""A cluster is suspended never while it is, or may be, in use, and always once its lifetime is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.gateway.admission.lifetime import Terms, duration, terms_of
from rayplane.gateway.reconcile.idleness import Activity, Verdict, from_ray, judge, period
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.team import TeamSpec

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HALF_AN_HOUR = Terms(idle_timeout=timedelta(minutes=30))
IDLE, UNKNOWN = Activity("idle"), Activity("unknown", "It does not answer.")
QUIET = {"driver": {"is_active": "INACTIVE", "reason": None, "last_activity_at": None}}


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def verdict(terms: Terms, activity: Activity | None, minutes: float, **facts: Any) -> Verdict:
    known = {"created_at": T0, "idle_since": None, "kept_until": None, "lives_until": None, **facts}
    return judge(terms, activity, now=at(minutes), **known)


def test_idleness_is_counted_from_its_first_observation() -> None:
    first = verdict(HALF_AN_HOUR, IDLE, 5)
    assert (first.act, first.idle_since, first.idle_until) == ("keep", at(5), at(35))
    assert verdict(HALF_AN_HOUR, IDLE, 34.9, idle_since=at(5)).act == "keep"
    last = verdict(HALF_AN_HOUR, IDLE, 35, idle_since=at(5))
    assert (last.act, last.reason) == ("suspend", "Idle")


def test_use_and_unknown_use_reset_idleness() -> None:
    for activity in (Activity("active", "job 'train'"), UNKNOWN):
        decision = verdict(HALF_AN_HOUR, activity, 60, idle_since=at(5))
        assert (decision.act, decision.idle_since, decision.idle_until) == ("keep", None, None)


def test_work_that_came_and_went_between_two_questions_counts_as_use() -> None:
    decision = verdict(HALF_AN_HOUR, Activity("idle", last=at(20)), 36, idle_since=at(5))
    assert (decision.act, decision.idle_since) == ("keep", at(20))
    ahead = verdict(HALF_AN_HOUR, Activity("idle", last=at(500)), 36, idle_since=at(5))
    assert ahead.idle_since == at(36), "a head's clock that is ahead does not put it off for ever"


def test_a_cluster_is_kept_until_the_end_of_its_extension() -> None:
    assert verdict(HALF_AN_HOUR, IDLE, 40, idle_since=at(5), kept_until=at(60)).act == "keep"
    assert verdict(HALF_AN_HOUR, IDLE, 60, idle_since=at(5), kept_until=at(60)).act == "suspend"


def test_the_end_of_a_lifetime_warns_and_then_suspends_even_a_cluster_in_use() -> None:
    day = Terms(max_lifetime=timedelta(hours=24))
    busy = Activity("active", "job 'train'")
    early = verdict(day, busy, 60)
    assert (early.expiring, early.again) == (False, timedelta(hours=22))
    late = verdict(day, busy, 23 * 60)
    assert (late.act, late.expiring, late.again) == ("keep", True, timedelta(hours=1))
    over = verdict(day, busy, 24 * 60)
    assert (over.act, over.reason) == ("suspend", "Lifetime")
    assert verdict(day, busy, 24 * 60, lives_until=at(25 * 60)).act == "keep"
    assert verdict(Terms(max_lifetime=timedelta(minutes=10)), busy, 9).expiring, "a tenth of a short one"


def test_a_cluster_without_terms_is_never_suspended() -> None:
    assert verdict(Terms(), IDLE, 10**6) == Verdict("keep")


@given(
    states=st.lists(st.sampled_from(["idle", "active", "unknown"]), min_size=1, max_size=60),
    step=st.integers(1, 20),
    timeout=st.integers(1, 60),
)
def test_a_cluster_is_suspended_only_after_it_was_idle_for_the_whole_timeout(
    states: list[Any], step: int, timeout: int
) -> None:
    terms, since = Terms(idle_timeout=timedelta(minutes=timeout)), None
    for index, state in enumerate(states):
        decision = verdict(terms, Activity(state), index * step, idle_since=since)
        since = decision.idle_since
        run = 0
        while run < index and states[index - run] == "idle" and states[index - run - 1] == "idle":
            run += 1
        long_enough = state == "idle" and run * step >= timeout
        assert (decision.act == "suspend") == long_enough
        if decision.act == "suspend":
            return
        assert decision.again is not None
        assert decision.again > timedelta(0)
        assert decision.again <= period(timedelta(minutes=timeout))


def test_a_ray_is_idle_only_if_all_of_its_components_are() -> None:
    assert from_ray(QUIET, {}) == Activity("idle")
    ended = {"driver": {"is_active": "INACTIVE", "reason": None, "last_activity_at": T0.timestamp()}}
    assert from_ray(ended, {}).last == T0
    driver = {"driver": {"is_active": "ACTIVE", "reason": "Number of active drivers: 1"}}
    assert from_ray(driver, {}) == Activity("active", "Ray's driver: Number of active drivers: 1")
    hook = {**QUIET, "notebook": {"is_active": "ACTIVE", "reason": "a kernel"}}
    assert from_ray(hook, {}).state == "active"
    assert from_ray(QUIET, {"delay": {}}) == Activity("active", "Serve application 'delay'")


@pytest.mark.parametrize(
    "components",
    [
        {},
        {"driver": None},
        {"driver": {}},
        {"driver": {"is_active": "ERROR", "reason": "TimeoutError"}},
        {"driver": {"is_active": "SOMETHING_NEW"}},
        {**QUIET, "external_component": {"is_active": "ERROR", "reason": "no such hook"}},
        {"notebook": QUIET["driver"]},
    ],
)
def test_use_that_ray_can_not_tell_is_unknown(components: dict[str, Any]) -> None:
    assert from_ray(components, {}).state == "unknown"


def test_a_clusters_terms_are_bounded_by_its_teams() -> None:
    team = TeamSpec(idle_timeout=3600, max_lifetime=86400)
    own = terms_of(ClusterSpec(idle_timeout=600, delete_after_idle=60), team)
    assert own == Terms(timedelta(minutes=10), timedelta(minutes=1), timedelta(days=1))
    assert terms_of(ClusterSpec(idle_timeout=7200), team).idle_timeout == timedelta(hours=1)
    assert terms_of(ClusterSpec(), TeamSpec()) == Terms()


def test_a_time_is_written_as_in_a_spec() -> None:
    assert [duration(s) for s in (0.5, 45, 5400, 90061)] == ["0.5s", "45s", "1h30m", "1d1h1m1s"]
