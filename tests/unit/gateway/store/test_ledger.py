"""Append-only rows: audit, leases, lineage, events. The database itself enforces that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError

from rayplane.errors import InvalidInput, NotFound
from rayplane.gateway.store import Store
from rayplane.nouns.cluster import Lease
from rayplane.nouns.events import Edge, Event
from tests.support import stores


def lease(clock: Any, id: str = "l1", team: str = "growth") -> Lease:
    return Lease(
        id=id, team=team, cluster_uid="u1", cluster="dev", cpu=8, memory=2.0**33, gpu=0.5, started_at=clock.now
    )


def fill(store: Store, clock: Any) -> None:
    store.audit("ada", "apply", kind="Cluster", team="growth", name="dev")
    store.open_lease(lease(clock))
    store.add_edges("growth", [Edge(source="a", target="b")])
    store.record_event("growth", Event(id="e1", type="lineage"))


@pytest.mark.parametrize("table", ["audit", "leases", "lineage", "events"])
def test_the_database_refuses_to_delete_rows(store: Store, store_url: str, clock: Any, table: str) -> None:
    fill(store, clock)
    engine = create_engine(store_url)
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(f"DELETE FROM {table}"))
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 1
    engine.dispose()


@pytest.mark.parametrize(
    "change",
    ["UPDATE audit SET principal = 'eve'", "UPDATE lineage SET source = 'x'", "UPDATE events SET type = 'x'"],
)
def test_the_database_refuses_to_change_rows(store: Store, store_url: str, clock: Any, change: str) -> None:
    fill(store, clock)
    engine = create_engine(store_url)
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(change))
    engine.dispose()


@pytest.mark.parametrize(
    "change",
    [
        "cpu = 1",
        "ended_at = NULL",
        "ended_at = '2030-01-01 00:00:00+00', memory = 1",
        "ended_at = '2030-01-01 00:00:00+00', team = 'ads'",
        "ended_at = '2030-01-01 00:00:00+00', seq = 99",
    ],
)
def test_the_database_lets_a_lease_be_closed_and_not_be_changed_otherwise(
    store: Store, store_url: str, clock: Any, change: str
) -> None:
    fill(store, clock)
    engine = create_engine(store_url)
    with pytest.raises(DBAPIError, match="can only be closed"), engine.begin() as connection:
        connection.execute(text(f"UPDATE leases SET {change}"))
    store.close_lease("l1", clock.now)
    with pytest.raises(DBAPIError, match="can only be closed"), engine.begin() as connection:
        connection.execute(text("UPDATE leases SET ended_at = '2030-01-01 00:00:00+00'"))
    engine.dispose()


@pytest.mark.parametrize("table", ["audit", "leases", "lineage", "events"])
def test_postgres_refuses_to_truncate(store: Store, store_url: str, clock: Any, table: str) -> None:
    if store_url.startswith("sqlite"):
        return  # SQLite has no TRUNCATE: there, it is a DELETE
    fill(store, clock)
    engine = create_engine(store_url)
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {table}"))
    engine.dispose()


def test_the_audit_log_is_paged_newest_first(store: Store, clock: Any) -> None:
    for number in range(7):
        store.audit("ada", "apply", kind="Job", team="growth", name=f"j{number}", detail={"n": number})
        clock.forward(seconds=1)
    store.audit("bob", "apply", kind="Job", team="ads", name="other")
    first = store.audit_log("growth", limit=4)
    second = store.audit_log("growth", limit=4, cursor=first.next_cursor)
    assert [row["name"] for row in first.items + second.items] == [f"j{n}" for n in reversed(range(7))]
    assert second.next_cursor is None
    row = first.items[0]
    assert row["time"] == clock.now - timedelta(seconds=1)
    assert {k: row[k] for k in ("principal", "action", "kind", "team", "detail")} == {
        "principal": "ada",
        "action": "apply",
        "kind": "Job",
        "team": "growth",
        "detail": {"n": 6},
    }
    assert len(store.audit_log(None).items) == 8
    with pytest.raises(InvalidInput):
        store.audit_log("growth", cursor="WyJhIl0")


def test_a_lease_is_opened_once_and_closed_once(store: Store, clock: Any) -> None:
    opened = lease(clock)
    store.open_lease(opened)
    store.open_lease(opened.model_copy(update={"cpu": 99}))
    store.open_lease(lease(clock, "l2", "ads"))
    assert store.leases() == [opened, lease(clock, "l2", "ads")]
    assert store.leases("growth", open_only=True) == [opened]
    store.close_lease("l1", clock.now + timedelta(hours=1))
    store.close_lease("l1", clock.now + timedelta(hours=2))
    assert store.leases("growth")[0].ended_at == clock.now + timedelta(hours=1)
    assert store.leases("growth", open_only=True) == []


def test_closing_an_unknown_lease_is_not_found(store: Store, clock: Any) -> None:
    with pytest.raises(NotFound):
        store.close_lease("none", clock.now)


def test_a_lease_that_a_clock_set_back_would_end_before_its_start_has_no_duration(store: Store, clock: Any) -> None:
    store.open_lease(lease(clock))
    store.close_lease("l1", clock.now - timedelta(minutes=5))
    assert store.leases()[0].ended_at == clock.now


def test_a_clusters_leases_are_the_open_ones_and_those_with_the_given_ids(store: Store, clock: Any) -> None:
    first, second, third = lease(clock), lease(clock, "l2"), lease(clock, "l3")
    for one in (first, second, third):
        store.open_lease(one)
    ended = [store.close_lease(id, clock.now + timedelta(hours=1)) for id in ("l1", "l2")]
    assert len(ended) == 2
    uid = first.cluster_uid
    assert [entry.id for entry in store.leases_of(uid)] == ["l3"]
    assert [entry.id for entry in store.leases_of(uid, ids=["l1"])] == ["l1", "l3"]
    assert store.leases_of("another") == []


def test_leases_are_selected_by_the_time_in_which_they_were_open(store: Store, clock: Any) -> None:
    store.open_lease(lease(clock))
    store.close_lease("l1", clock.now + timedelta(hours=1))
    store.open_lease(lease(clock, "l2").model_copy(update={"started_at": clock.now + timedelta(hours=2)}))
    hours = [clock.now + timedelta(hours=n) for n in range(4)]
    ids = [[x.id for x in store.leases_between("growth", a, b)] for a, b in pairwise(hours)]
    assert ids == [["l1"], [], ["l2"]]


def test_the_ledger_is_paged(store: Store, clock: Any) -> None:
    for number in range(5):
        store.open_lease(lease(clock, f"l{number}"))
    first = store.lease_page("growth", limit=3)
    second = store.lease_page("growth", limit=3, cursor=first.next_cursor)
    assert [entry.id for entry in first.items + second.items] == [f"l{n}" for n in range(5)]
    assert second.next_cursor is None


CHAIN = [
    Edge(source="source:a#1", target="dataset:raw@1"),
    Edge(source="dataset:raw@1", target="dataset:clean@1"),
    Edge(source="dataset:other@1", target="dataset:clean@1"),
    Edge(source="dataset:clean@1", target="run:r1"),
    Edge(source="run:r1", target="model:m/1"),
    Edge(source="dataset:clean@1", target="run:r2"),
]


def test_lineage_is_followed_over_every_hop_both_ways(store: Store) -> None:
    store.add_edges("growth", CHAIN)
    store.add_edges("growth", CHAIN)
    assert store.edges("growth", "model:m/1", "up") == CHAIN[:5]
    assert store.edges("growth", "source:a#1", "down") == [CHAIN[0], CHAIN[1], *CHAIN[3:]]
    assert store.edges("growth", "run:r2", "down") == []
    assert store.edges("ads", "model:m/1", "up") == []


def test_a_cycle_in_lineage_ends(store: Store) -> None:
    circle = [Edge(source=a, target=b) for a, b in ("ab", "bc", "ca")]
    store.add_edges("growth", circle)
    assert store.edges("growth", "a", "up") == circle
    assert store.edges("growth", "a", "down") == circle


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25), start=st.integers(0, 9))
def test_lineage_equals_a_walk_of_the_graph(store: Store, pairs: set[tuple[int, int]], start: int) -> None:
    team = f"t{abs(hash((frozenset(pairs), start)))}"
    store.add_edges(team, [Edge(source=str(a), target=str(b)) for a, b in pairs])
    reached, queue = {start}, [start]
    while queue:
        node = queue.pop()
        for a, b in pairs:
            if a == node and b not in reached:
                reached.add(b)
                queue.append(b)
    edges = {(int(e.source), int(e.target)) for e in store.edges(team, str(start), "down")}
    assert edges == {(a, b) for a, b in pairs if a in reached}


def test_an_event_is_recorded_once_for_each_team(store: Store) -> None:
    event = Event(id="e1", type="output.recorded", data={"name": "auc", "value": 0.76})
    assert store.record_event("growth", event, job_uid="u1") is True
    assert store.record_event("growth", event, job_uid="u1") is False
    assert store.record_event("ads", event) is True
    assert store.events("growth", ["u1"]) == [event]


def test_events_of_jobs_are_listed_in_order_of_time(store: Store, clock: Any) -> None:
    late = Event(id="late", type="output.recorded", time=clock.now + timedelta(seconds=9))
    early = Event(id="early", type="lineage", time=clock.now)
    for event in (late, early):
        store.record_event("growth", event, job_uid="u1")
    store.record_event("growth", Event(id="else", type="lineage"), job_uid="u2")
    assert [e.id for e in store.events("growth", ["u1"])] == ["early", "late"]
    assert [e.id for e in store.events("growth", ["u1", "u2"], type="lineage")] == ["early", "else"]
    assert store.events("growth", []) == []


def test_the_audit_log_is_filtered_by_action_and_time(store: Store, clock: Any) -> None:
    for number in range(6):
        action = "apply" if number % 2 else "rotate"
        store.audit("ada", action, kind="Secret", team="", name=f"s{number}")
        clock.forward(minutes=1)
    store.audit("ada", "apply", kind="Team", team="growth", name="growth")
    assert [row["name"] for row in store.audit_log(None, action="rotate").items] == ["s4", "s2", "s0"]
    since = clock.now - timedelta(minutes=3)
    assert [row["name"] for row in store.audit_log(None, since=since).items] == ["growth", "s5", "s4", "s3"]
    first = store.audit_log(None, action="apply", since=since, limit=2)
    second = store.audit_log(None, action="apply", since=since, limit=2, cursor=first.next_cursor)
    assert [row["name"] for row in [*first.items, *second.items]] == ["growth", "s5", "s3"]
    assert store.audit_log(None, since=clock.now + timedelta(seconds=1)).items == []


def test_an_audit_row_written_with_a_clock_set_back_is_selected_by_its_time(store: Store, clock: Any) -> None:
    begin = clock.now
    store.audit("ada", "apply", kind="Job", team="growth", name="before")
    clock.forward(hours=-1)
    store.audit("ada", "apply", kind="Job", team="growth", name="set-back")
    clock.forward(hours=2)
    store.audit("ada", "apply", kind="Job", team="growth", name="after")
    assert [row["name"] for row in store.audit_log(None, since=begin).items] == ["after", "before"]


@pytest.mark.parametrize("narrowed", [{"action": "refuse"}, {"team": "growth"}])
def test_a_page_of_the_audit_log_is_read_by_an_index(tmp_path: Path, narrowed: dict[str, str]) -> None:
    store = Store(stores.migrate(f"sqlite:///{tmp_path / 'gateway.db'}"))
    asked: list[str] = []
    listen(store._engine, "before_cursor_execute", lambda c, cursor, sql, params, *rest: asked.append(sql))
    store.audit_log(narrowed.get("team"), action=narrowed.get("action"), since=datetime(2026, 1, 1, tzinfo=UTC))
    with store._engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[-1]}", tuple("x" * asked[-1].count("?")))
        steps = [row[-1] for row in plan]
    assert not [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step]
    assert any("ix_audit_time_id" in step for step in steps)
    store.close()
