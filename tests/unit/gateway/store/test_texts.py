"""Objects as JSON text: equal to their models, and read by an index."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from rayplane.errors import InvalidInput, NotFound
from rayplane.gateway.store import Store
from rayplane.gateway.store.objects import NO_CLUSTER
from rayplane.gateway.store.typed import AnyObject
from rayplane.nouns.job import UNFINISHED

ODD = 'q"uote \\ \n \N{SNOWMAN} \U0001f680 \x7f \u2028'


def put(store: Store, name: str, *, kind: str = "Job", team: str = "growth", **more: Any) -> AnyObject:
    spec = {"entrypoint": ODD, "cluster": "dev", **more.pop("spec", {})}
    return store.put(kind, team, name, spec, owner=more.pop("owner", "ada"), **more)[0]


def as_shown(obj: AnyObject) -> Any:
    return obj.plain().model_dump(mode="json")


@pytest.fixture
def odd(store: Store, clock: Any) -> list[AnyObject]:
    """Objects with everything that is hard to encode, in order of creation."""
    made = [put(store, "plain")]
    clock.forward(microseconds=1)
    made.append(
        put(store, "odd", labels={ODD: ODD, "a": "b"}, owner=ODD, spec={ODD: [ODD, None, 1.5, {"z": 1, "a": {}}]})
    )
    clock.forward(seconds=1)
    put(store, "going", labels={"a": "b"})
    clock.forward(milliseconds=250)
    going = store.set_status(store.get("Job", "growth", "going").metadata.uid, {"phase": ODD, "message": ODD})
    made.append(store.mark_deleted(going.metadata.uid))
    return made


def test_a_text_equals_its_object(store: Store, odd: list[AnyObject]) -> None:
    for obj in odd:
        text = store.text("Job", "growth", obj.metadata.name)
        assert json.loads(text.json) == as_shown(obj)
        assert list(json.loads(text.json)["metadata"]) == list(as_shown(obj)["metadata"])
        assert text.version == obj.metadata.resource_version


def test_the_text_of_an_object_without_a_team_has_a_null_team(store: Store) -> None:
    made = put(store, "growth", kind="Team", team="")
    assert json.loads(store.text("Team", "", "growth").json) == as_shown(made)
    assert [json.loads(item)["metadata"]["team"] for item in store.texts("Team", "").items] == [None]


def test_a_summary_has_the_metadata_and_the_phase(store: Store, odd: list[AnyObject]) -> None:
    page = store.texts("Job", "growth", view="summary")
    assert [json.loads(item) for item in page.items] == [
        {"kind": "Job", "metadata": as_shown(obj)["metadata"], "phase": obj.status_data.get("phase", "")} for obj in odd
    ]
    assert json.loads(store.text("Job", "growth", "odd", view="summary").json)["phase"] == ""


def test_pages_of_texts_equal_those_of_objects_and_have_the_same_cursors(store: Store, clock: Any) -> None:
    for number in range(25):
        put(store, f"j{number:02}", labels={"third": str(number % 3)})
        if number % 4 == 0:  # several of one instant
            clock.forward(microseconds=70_000)
    put(store, "elsewhere", team="ads")
    put(store, "other", kind="Cluster")
    store.remove(store.get("Job", "growth", "j07").metadata.uid)
    labels: list[dict[str, str] | None] = [None, {"third": "1"}]
    for wanted in labels:
        cursor: str | None = None
        while True:
            objects = store.list("Job", "growth", labels=wanted, limit=4, cursor=cursor)
            texts = store.texts("Job", "growth", labels=wanted, limit=4, cursor=cursor)
            assert [json.loads(item) for item in texts.items] == [as_shown(obj) for obj in objects.items]
            assert texts.next_cursor == objects.next_cursor
            cursor = texts.next_cursor
            if cursor is None:
                break


def test_a_missing_object_is_answered_with_the_nearest_name(store: Store) -> None:
    put(store, "train")
    for ask in (store.text, store.require):
        with pytest.raises(NotFound, match=r"Job 'growth/trian' is not there. Did you mean 'train'?"):
            ask("Job", "growth", "trian")
    store.require("Job", "growth", "train")


def test_bad_cursors_and_limits_are_refused(store: Store) -> None:
    with pytest.raises(InvalidInput, match="next_cursor"):
        store.texts("Job", "growth", cursor="WyJhIiwiYiJd")
    with pytest.raises(InvalidInput, match="1 to 1000"):
        store.texts("Job", "growth", limit=1001)


def test_the_newest_jobs_of_a_cluster_are_listed_oldest_first(store: Store, clock: Any) -> None:
    for number in range(6):
        put(store, f"j{number}")
        put(store, f"o{number}", spec={"cluster": "other"})
        clock.forward(seconds=1)
    put(store, "own", spec={"cluster": None})
    put(store, "elsewhere", team="ads")
    put(store, "service", kind="Service")
    store.remove(store.get("Job", "growth", "j4").metadata.uid)
    jobs = store.newest_jobs("growth", "dev", 3)
    assert [job.name for job in jobs] == ["j2", "j3", "j5"]
    assert jobs[0].created_at == clock.now - timedelta(seconds=4)
    assert json.loads(jobs[0].spec)["entrypoint"] == ODD
    assert json.loads(jobs[0].status) == {}


def test_objects_are_listed_by_the_cluster_that_their_spec_names_now(store: Store) -> None:
    moved = put(store, "moved", kind="Service")
    put(store, "stays", kind="Service")
    put(store, "moved", kind="Service", spec={"cluster": "other"})
    assert [o.metadata.name for o in store.each("Service", "growth", cluster="dev")] == ["stays"]
    store.update_spec(moved.metadata.uid, {"cluster": None})
    assert list(store.each("Service", "growth", cluster="other")) == []
    assert [o.metadata.name for o in store.each("Service", "growth", cluster=NO_CLUSTER)] == ["moved"]
    store.update_spec(moved.metadata.uid, {"cluster": ["dev"]})
    assert [o.metadata.name for o in store.each("Service", "growth", cluster="dev")] == ["stays"]


def test_objects_are_counted_by_phase(store: Store) -> None:
    for number, phase in enumerate(["Pending", "Running", "Succeeded", "Failed"]):
        put(store, f"j{number}", status={"phase": phase})
    put(store, "elsewhere", team="ads", status={"phase": "Running"})
    store.remove(put(store, "gone", status={"phase": "Running"}).metadata.uid)
    assert store.count("Job", "growth", phases=UNFINISHED) == 2


def test_threads_read_lists_of_sqlite_one_after_the_other_but_do_not_wait_for_a_stuck_one(
    tmp_path: Path,
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'gateway.db'}")
    store.migrate()
    put(store, "j1")
    alone: list[bool] = []
    event.listen(store._engine, "before_cursor_execute", lambda *_: alone.append(store._reading.locked()))
    store.texts("Job", "growth")
    store.newest_jobs("growth", "dev", 9)
    assert set(alone) == {True}
    assert not store._reading.locked()
    with store._reading:  # like a thread that is stuck in its read
        assert len(store.texts("Job", "growth").items) == 1
    with pytest.raises(InvalidInput), store.transaction():
        store.texts("Job", "growth", cursor="bad")
    assert not store._reading.locked()
    store.close()


def _cursor(store: Store) -> str | None:
    return store.list("Job", "growth", limit=1).next_cursor


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (lambda s: s.texts("Job", "growth"), "ix_objects_page (kind=? AND team=?)"),
        (
            lambda s: s.texts("Job", "growth", cursor=_cursor(s)),
            "ix_objects_page (kind=? AND team=? AND (created_at,uid)>(?,?))",
        ),
        (
            lambda s: s.list("Job", "growth", cursor=_cursor(s)),
            "ix_objects_page (kind=? AND team=? AND (created_at,uid)>(?,?))",
        ),
        (lambda s: s.text("Job", "growth", "j1"), "uq_objects_live_name (kind=? AND team=? AND name=?)"),
        (lambda s: s.get("Job", "growth", "j1"), "uq_objects_live_name (kind=? AND team=? AND name=?)"),
        (lambda s: s.newest_jobs("growth", "dev", 9), "ix_objects_cluster (kind=? AND team=? AND cluster=?)"),
        (
            lambda s: list(s.each("Job", "growth", cluster="dev")),
            "ix_objects_cluster (kind=? AND team=? AND cluster=?)",
        ),
        (
            lambda s: s.count("Job", "growth", phases=UNFINISHED),
            "COVERING INDEX ix_objects_phase (kind=? AND phase=? AND team=?)",
        ),
        (
            lambda s: s.list("Job", "growth", phases=UNFINISHED),
            "ix_objects_phase (kind=? AND phase=? AND team=?) | USE TEMP B-TREE FOR ORDER BY",
        ),
        (lambda s: s.count("Job", "growth", removed=True), "COVERING INDEX ix_objects_team (kind=? AND team=?)"),
        (lambda s: s.count_by_phase(), "COVERING INDEX ix_objects_phase"),
    ],
)
def test_frequent_queries_read_an_index_in_order(tmp_path: Path, ask: Callable[[Store], object], index: str) -> None:
    """SQLite only: Postgres chooses its plan by the table's statistics."""
    store = Store(f"sqlite:///{tmp_path / 'gateway.db'}")
    store.migrate()
    for number in range(3):
        put(store, f"j{number}")
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    event.listen(store._engine, "before_cursor_execute", note)
    ask(store)
    event.remove(store._engine, "before_cursor_execute", note)
    with store._engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[-1][0]}", asked[-1][1]).all()
    store.close()
    plan = " | ".join(row[-1] for row in rows)
    assert plan.endswith(index), plan
