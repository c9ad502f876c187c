"""Rows of a deleted team: archived or purged, while append-only rows stay protected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, insert, text
from sqlalchemy.exc import DBAPIError

from rayplane.errors import NotFound
from rayplane.gateway.store import Store
from rayplane.gateway.store.database import prepare_file
from rayplane.gateway.store.migrate import upgrade
from rayplane.gateway.store.tables import metadata, objects
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases import operations
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import Lease
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Edge, Event
from rayplane.nouns.pipeline import StepResult

OF_TEAMS = sorted(table.name for table in metadata.tables.values() if "team" in table.c)


def populate(store: Store, team: str) -> AnyObject:
    """Write a row of the team into every table that has rows of teams."""
    owner, _ = store.put("Team", "", team, {"backend": "local"}, owner="ada", status={"phase": "Ready"})
    job, _ = store.put("Job", team, "train", {"cluster": "dev"}, owner="ada", external_id="dev/raysubmit_1")
    store.remove(store.put("Job", team, "earlier", {}, owner="ada")[0].metadata.uid)
    store.audit("ada", "apply", kind="Job", team=team, name="train", detail={"by": "hand"})
    lease = Lease(id=f"{team}-1", team=team, cluster_uid="c1", cluster="dev", cpu=1, memory=2, gpu=0,
                  started_at=utcnow())  # fmt: skip
    store.open_lease(lease)
    store.close_lease(lease.id, utcnow())
    store.open_lease(lease.model_copy(update={"id": f"{team}-2"}))
    store.add_edges(team, [Edge(source="source:a#1", target="dataset:d@1")])
    store.record_event(team, Event(id=f"{team}-e", type="lineage"), job_uid=job.metadata.uid)
    of_d = {"team": team, "name": "d", "version": "1", "content_hash": "0" * 64, "uri": f"file:///{team}/d/1"}
    store.put_dataset_version(DatasetVersion.model_validate({**of_d, "rows": 1, "bytes": 1, "columns": []}))
    store.put_step_result(team, StepResult(key="k", outputs=[], run="r-1", job=None))
    operations.begin(store, job, "apply")
    return owner


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    made = create_engine(store_url)
    yield made
    made.dispose()


def rows(engine: Engine, team: str) -> dict[str, int]:
    """Table -> number of rows of a team."""
    with engine.connect() as connection:
        counts = {
            table: connection.execute(text(f"SELECT COUNT(*) FROM {table} WHERE team = :team"), {"team": team}).scalar()
            for table in OF_TEAMS
        }
    return {table: int(count or 0) for table, count in counts.items() if count}


def test_all_rows_of_a_deleted_team_and_no_others_move_to_its_archived_name(store: Store, engine: Engine) -> None:
    team = populate(store, "growth")
    populate(store, "sales")
    before, others = rows(engine, "growth"), rows(engine, "sales")
    assert set(before) == set(OF_TEAMS), "the test has something in each table"
    archived = f"growth~{team.metadata.uid}"
    for _ in range(2):
        store.file_away("growth", archived)
    assert rows(engine, "growth") == {}
    assert rows(engine, archived) == before
    assert rows(engine, "sales") == others
    assert [entry["detail"] for entry in store.audit_log(archived).items] == [{"by": "hand"}]
    assert [lease.id for lease in store.leases(archived)] == ["growth-1", "growth-2"]
    store.close_lease("growth-2", utcnow())
    assert store.leases(archived, open_only=True) == []


def test_archived_objects_are_removed_and_their_names_and_ids_are_free(store: Store) -> None:
    team = populate(store, "growth")
    job = store.get("Job", "growth", "train")
    operation = store.put_operation(known := operations.begin(store, job, "apply"))
    assert operation is None
    _, newest = store.written(None)
    store.file_away("growth", f"growth~{team.metadata.uid}")
    for missing in (
        lambda: store.get("Job", "growth", "train"),
        lambda: store.get_by_uid(job.metadata.uid),
        lambda: store.get_dataset_version("growth", "d", None),
    ):
        with pytest.raises(NotFound):
            missing()
    assert store.find("Job", "growth", "dev/raysubmit_1") is None
    assert store.count("Job", "growth", removed=True) == 0
    assert store.get_step_result("growth", "k") is None
    assert store.edges("growth", "dataset:d@1", "up") == []
    assert store.get_operation(known.id).team == f"growth~{team.metadata.uid}"
    gone = {item.uid: item.gone for item in store.written(newest)[0]}
    assert gone == {job.metadata.uid: True}, "the loop learns of the removal"
    store.put("Job", "growth", "train", {"cluster": "dev"}, owner="bo", external_id="dev/raysubmit_1")


def test_archiving_wakes_the_waiters_of_archived_objects(store: Store) -> None:
    team = populate(store, "growth")
    job = store.get("Job", "growth", "train")
    with store.changes.watching(job.metadata.uid) as watch:
        store.file_away("growth", f"growth~{team.metadata.uid}")
        assert watch.wait(0)


def test_a_purge_leaves_the_audit_log_the_leases_and_the_teams_name(store: Store, engine: Engine) -> None:
    team = populate(store, "growth")
    populate(store, "sales")
    others, archived = rows(engine, "sales"), f"growth~{team.metadata.uid}"
    before = rows(engine, "growth")
    store.file_away("growth", archived)
    store.remove(team.metadata.uid)
    for _ in range(2):
        store.purge(archived, team.metadata.uid)
    assert rows(engine, archived) == {table: before[table] for table in ("audit", "leases")}
    assert rows(engine, "sales") == others
    with engine.connect() as connection:
        query = text("SELECT name, owner, CAST(spec AS TEXT) FROM objects WHERE uid = :uid")
        assert connection.execute(query, {"uid": team.metadata.uid}).one() == ("growth", "", "{}")
    assert list(store.predecessors("growth")) == [team.metadata.uid]
    assert store.is_archive(archived)
    assert not store.is_archive("growth")
    assert not store.is_archive(f"growth~{'0' * 32}")


@pytest.mark.parametrize("name", ["growth", "growth-1"])
def test_archiving_and_purging_refuse_a_name_that_a_team_could_have(store: Store, name: str) -> None:
    team = populate(store, "growth")
    with pytest.raises(ValueError, match="could be a team's name"):
        store.file_away("growth", name)
    with pytest.raises(ValueError, match="could be a team's name"):
        store.purge(name, team.metadata.uid)
    assert store.get("Job", "growth", "train").metadata.name == "train"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET team = 'sales'",
        "UPDATE audit SET team = 'growth~1', principal = 'eve'",
        "UPDATE audit SET team = 'sales~1'",
        "UPDATE events SET team = 'growth~1', body = '{}'",
        "UPDATE lineage SET team = 'growth~1', target = 'x'",
        "UPDATE leases SET team = 'growth~1', cpu = 0",
        "UPDATE leases SET team = 'sales' WHERE ended_at IS NULL",
        "DELETE FROM audit",
        "DELETE FROM events",
        "DELETE FROM lineage",
        "DELETE FROM leases",
    ],
)
def test_the_database_allows_no_change_of_append_only_rows_but_archiving(
    store: Store, engine: Engine, statement: str
) -> None:
    populate(store, "growth")
    with pytest.raises(DBAPIError, match=r"append-only|can only be closed"), engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET team = 'growth'",
        "UPDATE leases SET team = team || '~2'",
        "DELETE FROM audit",
        "DELETE FROM leases",
    ],
)
def test_archived_rows_can_neither_be_moved_again_nor_deleted(store: Store, engine: Engine, statement: str) -> None:
    team = populate(store, "growth")
    store.file_away("growth", f"growth~{team.metadata.uid}")
    with pytest.raises(DBAPIError, match=r"append-only|can only be closed"), engine.begin() as connection:
        connection.execute(text(statement))


def test_a_stored_answer_about_an_earlier_team_is_not_returned_for_a_new_one(store: Store) -> None:
    store.remember("ada", "key", "print", {"status": 201}, team_uid="old")
    assert store.recall("ada", "key", "print", team_uid="old") == {"status": 201}
    assert store.recall("ada", "key", "print", team_uid=None) == {"status": 201}, "no new team has that name"
    assert store.recall("ada", "key", "other", team_uid="new") is None, "nor is it a conflict"
    store.remember("ada", "key", "other", {"status": 200}, team_uid="new")
    assert store.recall("ada", "key", "other", team_uid="new") == {"status": 200}


def test_a_purge_deletes_stored_answers_except_that_to_the_deletion(store: Store) -> None:
    team = populate(store, "growth")
    uid, archived = team.metadata.uid, f"growth~{team.metadata.uid}"
    store.remember("ada", "put", "p", {"body": {"kind": "Job", "status": {}}}, team_uid=uid)
    store.remember("ada", "del", "d", {"body": {"kind": "Team", "status": {"archived_as": archived}}}, team_uid=uid)
    store.remember("ada", "other", "o", {"body": {"kind": "Job"}}, team_uid="sales")
    store.file_away("growth", archived)
    store.purge(archived, uid)
    assert store.recall("ada", "put", "p") is None
    assert store.recall("ada", "del", "d") is not None
    assert store.recall("ada", "other", "o") is not None


def test_names_elsewhere_include_those_of_deleted_teams(store: Store) -> None:
    gone, _ = store.put("Team", "", "growth", {}, owner="ada", status={"mlflow_workspace": "growth-1"})
    store.remove(gone.metadata.uid)
    store.put("Team", "", "sales", {}, owner="ada")
    assert store.names_elsewhere() == {"growth", "growth-1", "sales"}


def test_the_migration_archives_rows_of_teams_that_an_older_version_deleted(store_url: str) -> None:
    store = Store(store_url)
    if store_url.startswith("sqlite"):
        prepare_file(store._url)
    upgrade(store._engine, "0003")
    now = utcnow()
    common = {"generation": 1, "resource_version": 1, "labels": {}, "owner": "ada", "created_at": now}
    common |= {"updated_at": now, "spec": {}, "status": {}, "phase": ""}
    with store.transaction(), store._write() as connection:
        for uid, kind, team, name, removed in (
            ("t1", "Team", "", "growth", now),
            ("t2", "Team", "", "sales", now),
            ("t3", "Team", "", "sales", None),
            ("j1", "Job", "growth", "train", None),
            ("j2", "Job", "sales", "train", None),
        ):
            row = {"uid": uid, "kind": kind, "team": team, "name": name, "removed_at": removed}
            connection.execute(insert(objects).values(**row, **common))
        for team in ("growth", "sales"):
            store.audit("ada", "apply", kind="Job", team=team, name="train")
    store.migrate()
    assert store.list("Job", "growth").items == []
    assert store.audit_log("growth").items == []
    assert [entry["name"] for entry in store.audit_log("growth~t1").items] == ["train"]
    assert store.count("Job", "growth~t1", removed=True) == 1
    assert [job.metadata.uid for job in store.each("Job", "sales")] == ["j2"], "it belongs to an existing team"
    assert len(store.audit_log("sales").items) == 1
    store.close()
