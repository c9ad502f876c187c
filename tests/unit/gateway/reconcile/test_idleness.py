"""When a cluster is given back: never while it is used, or may be; always once its time is over."""

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


def test_idleness_is_counted_from_when_it_was_first_seen() -> None:
    first = verdict(HALF_AN_HOUR, IDLE, 5)
    assert (first.act, first.idle_since, first.idle_until) == ("keep", at(5), at(35))
    assert verdict(HALF_AN_HOUR, IDLE, 34.9, idle_since=at(5)).act == "keep"
    last = verdict(HALF_AN_HOUR, IDLE, 35, idle_since=at(5))
    assert (last.act, last.reason) == ("suspend", "Idle")


def test_use_and_doubt_begin_it_anew() -> None:
    for activity in (Activity("active", "job 'train'"), UNKNOWN):
        found = verdict(HALF_AN_HOUR, activity, 60, idle_since=at(5))
        assert (found.act, found.idle_since, found.idle_until) == ("keep", None, None)


def test_what_came_and_went_between_two_questions_counts() -> None:
    found = verdict(HALF_AN_HOUR, Activity("idle", last=at(20)), 36, idle_since=at(5))
    assert (found.act, found.idle_since) == ("keep", at(20))
    ahead = verdict(HALF_AN_HOUR, Activity("idle", last=at(500)), 36, idle_since=at(5))
    assert ahead.idle_since == at(36), "a head's clock that is ahead does not put it off for ever"


def test_it_is_kept_for_as_long_as_somebody_asked() -> None:
    assert verdict(HALF_AN_HOUR, IDLE, 40, idle_since=at(5), kept_until=at(60)).act == "keep"
    assert verdict(HALF_AN_HOUR, IDLE, 60, idle_since=at(5), kept_until=at(60)).act == "suspend"


def test_a_lifetime_warns_and_ends_whatever_runs() -> None:
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


def test_a_cluster_without_terms_is_never_given_back() -> None:
    assert verdict(Terms(), IDLE, 10**6) == Verdict("keep")


@given(
    states=st.lists(st.sampled_from(["idle", "active", "unknown"]), min_size=1, max_size=60),
    step=st.integers(1, 20),
    timeout=st.integers(1, 60),
)
def test_it_is_suspended_only_after_it_was_seen_idle_for_all_of_the_timeout(
    states: list[Any], step: int, timeout: int
) -> None:
    terms, since = Terms(idle_timeout=timedelta(minutes=timeout)), None
    for index, state in enumerate(states):
        found = verdict(terms, Activity(state), index * step, idle_since=since)
        since = found.idle_since
        run = 0
        while run < index and states[index - run] == "idle" and states[index - run - 1] == "idle":
            run += 1
        long_enough = state == "idle" and run * step >= timeout
        assert (found.act == "suspend") == long_enough
        if found.act == "suspend":
            return
        assert found.again is not None
        assert found.again > timedelta(0)
        assert found.again <= period(timedelta(minutes=timeout))


def test_ray_is_idle_only_if_it_says_so_of_everything() -> None:
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
def test_what_ray_can_not_tell_is_unknown(components: dict[str, Any]) -> None:
    assert from_ray(components, {}).state == "unknown"


def test_a_cluster_has_its_own_terms_within_its_teams() -> None:
    team = TeamSpec(idle_timeout=3600, max_lifetime=86400)
    own = terms_of(ClusterSpec(idle_timeout=600, delete_after_idle=60), team)
    assert own == Terms(timedelta(minutes=10), timedelta(minutes=1), timedelta(days=1))
    assert terms_of(ClusterSpec(idle_timeout=7200), team).idle_timeout == timedelta(hours=1)
    assert terms_of(ClusterSpec(), TeamSpec()) == Terms()


def test_a_time_is_written_as_in_a_spec() -> None:
    assert [duration(s) for s in (0.5, 45, 5400, 90061)] == ["0.5s", "45s", "1h30m", "1d1h1m1s"]
