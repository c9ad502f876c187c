"""The store's snapshot: equal after a restore, consistent during writes, on SQLite and Postgres."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from rayplane.errors import Conflict, InvalidData, NotFound, Unsupported
from rayplane.gateway.store import Store
from rayplane.gateway.store.snapshot import SUMMARY, SnapshotSummary
from rayplane.nouns.cluster import Lease
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Edge, Event, Operation
from rayplane.nouns.pipeline import StepResult
from tests.unit.gateway.store.conftest import Clock, fresh_schema

SPEC = {
    "z": 1,
    "a": {"cluster": "dev", "big": 2**62 + 1, "tiny": 1e-17, "text": "ü \u2028 \ud83d\ude00"},
    "cluster": "dev",
}
"""Keys in an order of their own, a number that no float holds, and text beyond ASCII."""


@pytest.fixture
def empty(store_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of another empty database of the same kind."""
    with ExitStack() as stack:
        yield _another(store_url.startswith("sqlite"), request, tmp_path, stack)


def _another(on_sqlite: bool, request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack) -> str:
    if on_sqlite:
        return f"sqlite:///{tmp_path / 'other' / 'gateway.db'}"
    return stack.enter_context(fresh_schema(request.getfixturevalue("postgres_url")))


def fill(store: Store, clock: Clock) -> None:
    """Put rows into every table."""
    store.put("Team", "", "growth", {}, owner="ada", labels={"b": "2", "a": "1"})
    job, _ = store.put("Job", "growth", "train", SPEC, owner="ada", labels={"stage": "dev"})
    clock.forward(microseconds=1)
    store.audit("ada", "put", kind="Job", team="growth", name="train", detail={"why": None})
    store.open_lease(
        Lease(
            id="l1", team="growth", cluster_uid="u", cluster="dev", cpu=0.1, memory=2.0**33, gpu=0, started_at=clock()
        )
    )
    store.add_edges("growth", [Edge(source="a@1", target="b@2")])
    store.record_event("growth", Event(id="e1", type="run.started", time=clock(), data={}), job_uid=job.metadata.uid)
    store.put_dataset_version(
        DatasetVersion(
            team="growth", name="flights", version="1" * 16, content_hash="1" * 64, uri="file:///r/x", rows=3, bytes=9,
            columns=[], created_at=clock(),
        )
    )  # fmt: skip
    store.put_step_result("growth", StepResult(key="k", run="r", job="j", outputs=[]))
    store.remember("ada", "key", "print", {"status": 201})
    store.put_operation(
        Operation(
            id="o", team="growth", kind="Job", name="train", uid="u", generation=1, action="run", created_at=clock()
        )
    )
    store.acquire_leadership("host:1", 8)


def written(store: Store, folder: Path) -> SnapshotSummary:
    folder.mkdir()
    return store.write_snapshot(folder)


def test_a_restored_snapshot_is_equal_table_by_table(store: Store, clock: Clock, empty: str, tmp_path: Path) -> None:
    fill(store, clock)
    before = written(store, tmp_path / "before")
    assert all(before.tables[name].rows for name in before.tables), before
    other = Store(empty, clock=clock)
    other.read_snapshot(tmp_path / "before")
    assert written(other, tmp_path / "after") == before
    assert list(other.get("Job", "growth", "train").spec_data["a"]) == list(SPEC["a"])  # type: ignore[call-overload]
    assert other.get("Job", "growth", "train") == store.get("Job", "growth", "train")
    other.close()


def test_generated_numbers_continue_after_a_restore(store: Store, clock: Clock, empty: str, tmp_path: Path) -> None:
    fill(store, clock)
    store.audit("ada", "put", kind="Job", team="growth", name="train")
    written(store, tmp_path / "before")
    other = Store(empty, clock=clock)
    other.read_snapshot(tmp_path / "before")
    for each in (store, other):
        each.audit("ada", "delete", kind="Job", team="growth", name="train")
        each.put("Job", "growth", "next", {}, owner="ada")
    assert other.audit_log(None) == store.audit_log(None)
    assert (
        other.get("Job", "growth", "next").metadata.resource_version
        == store.get("Job", "growth", "next").metadata.resource_version
    )
    other.close()


def test_the_ledger_stays_append_only_after_a_restore(store: Store, clock: Clock, empty: str, tmp_path: Path) -> None:
    fill(store, clock)
    written(store, tmp_path / "before")
    other = Store(empty)
    other.read_snapshot(tmp_path / "before")
    other.close()
    engine = create_engine(empty)
    with pytest.raises(Exception, match="append-only"), engine.begin() as connection:
        connection.execute(text("DELETE FROM audit"))
    engine.dispose()


def test_a_snapshot_of_one_kind_of_database_is_restored_into_the_other(
    store: Store, store_url: str, clock: Clock, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fill(store, clock)
    written(store, tmp_path / "before")
    with ExitStack() as stack:
        other = Store(_another(not store_url.startswith("sqlite"), request, tmp_path, stack), clock=clock)
        other.read_snapshot(tmp_path / "before")
        assert other.list("Job", "growth") == store.list("Job", "growth")
        assert list(other.get("Job", "growth", "train").spec_data) == list(SPEC)
        assert other.audit_log(None) == store.audit_log(None)
        assert other.leases() == store.leases()
        assert other.edges("growth", "b@2", "up") == store.edges("growth", "b@2", "up")
        assert other.list_dataset_versions("growth", "flights") == store.list_dataset_versions("growth", "flights")
        other.audit("ada", "delete", kind="Job", team="growth", name="train")
        assert [row["id"] for row in other.audit_log(None).items] == [2, 1]
        other.close()


def test_a_snapshot_taken_during_writes_has_whole_transactions_only(store: Store, empty: str, tmp_path: Path) -> None:
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            with store.transaction():
                store.put("Job", "growth", f"first-{number}", {}, owner="ada")
                store.audit("ada", "put", kind="Job", team="growth", name=f"{number}")
                store.put("Job", "growth", f"second-{number}", {}, owner="ada")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while store.count("Job", "growth") < 40:
            pass
        taken = [written(store, tmp_path / str(turn)) for turn in range(5)]
    finally:
        done.set()
        writer.join()
    assert taken[0].tables["objects"].rows < taken[-1].tables["objects"].rows, (
        "the store was written to in the meantime"
    )
    for turn, summary in enumerate(taken):
        rows = [json.loads(line) for line in (tmp_path / str(turn) / "revision.jsonl").read_bytes().splitlines()]
        objects = summary.tables["objects"].rows
        assert objects == 2 * summary.tables["audit"].rows
        assert rows[1] == [1, objects], "the newest version is that of the newest object"
    other = Store(empty)
    other.read_snapshot(tmp_path / "4")
    assert other.count("Job", "growth") == taken[4].tables["objects"].rows
    other.close()


def test_a_restore_leaves_a_non_empty_database_unchanged(store: Store, clock: Clock, tmp_path: Path) -> None:
    fill(store, clock)
    written(store, tmp_path / "before")
    with pytest.raises(Conflict, match="not empty"):
        store.read_snapshot(tmp_path / "before")
    assert store.count("Job", "growth") == 1


def test_a_snapshot_of_a_newer_schema_is_refused_and_leaves_nothing(
    store: Store, empty: str, clock: Clock, tmp_path: Path
) -> None:
    fill(store, clock)
    written(store, tmp_path / "before")
    summary = tmp_path / "before" / SUMMARY
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "revision": "9999"}))
    other = Store(empty)
    with pytest.raises(Unsupported, match="newer rayplane"):
        other.read_snapshot(tmp_path / "before")
    with pytest.raises(NotFound, match="holds no platform"):
        written(other, tmp_path / "after")
    other.close()


def test_a_snapshot_whose_rows_do_not_fit_leaves_nothing(
    store: Store, empty: str, clock: Clock, tmp_path: Path
) -> None:
    fill(store, clock)
    written(store, tmp_path / "before")
    table = tmp_path / "before" / "leases.jsonl"
    table.write_bytes(table.read_bytes().replace(b'["cpu","plain"]', b'["cpus","plain"]'))
    other = Store(empty)
    with pytest.raises(InvalidData, match="other columns"):
        other.read_snapshot(tmp_path / "before")
    with pytest.raises(NotFound, match="holds no platform"):
        written(other, tmp_path / "after")
    other.close()


def test_a_folder_without_a_snapshot_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no snapshot"):
        store.read_snapshot(tmp_path)
