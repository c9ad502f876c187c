"""Transactions: all or nothing, nested, dry runs; many writers at once; processes that die."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from rayplane.errors import InvalidInput, NotFound, Unavailable
from rayplane.gateway.store import Store


def test_an_error_in_a_block_rolls_back_its_writes(store: Store) -> None:
    def write() -> None:
        with store.transaction():
            store.put("Cluster", "growth", "dev", {}, owner="ada")
            store.audit("ada", "apply", kind="Cluster", team="growth", name="dev")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    with pytest.raises(NotFound):
        store.get("Cluster", "growth", "dev")
    assert store.audit_log("growth").items == []


def test_nested_blocks_join_the_outermost(store: Store) -> None:
    def write() -> None:
        with store.transaction():
            with store.transaction():
                store.put("Cluster", "growth", "dev", {}, owner="ada")
            assert store.get("Cluster", "growth", "dev").spec_data == {}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert store.list("Cluster").items == []


def test_a_dry_run_returns_results_and_writes_nothing(store: Store) -> None:
    with store.transaction(commit=False):
        assert store.put("Cluster", "growth", "dev", {}, owner="ada")[1] == "created"
        assert store.get("Cluster", "growth", "dev").metadata.generation == 1
    assert store.list("Cluster").items == []


def test_a_transaction_belongs_to_its_own_thread(store: Store) -> None:
    with store.transaction(), ThreadPoolExecutor(1) as pool:
        store.put("Cluster", "growth", "dev", {}, owner="ada")
        assert pool.submit(lambda: store.list("Cluster").items).result() == []
    assert len(store.list("Cluster").items) == 1


def in_threads(count: int, act: Callable[[int], object]) -> None:
    barrier = Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        act(number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, range(count)))


def test_concurrent_puts_lose_nothing_and_versions_only_rise(store: Store) -> None:
    versions: list[int] = []

    def write(worker: int) -> None:
        for number in range(10):
            obj, _ = store.put("Cluster", "growth", f"c{number}", {"by": worker, "turn": number}, owner=str(worker))
            versions.append(obj.metadata.resource_version)
            store.audit(str(worker), "apply", kind="Cluster", team="growth", name=f"c{number}")

    in_threads(8, write)
    assert len(set(versions)) == len(versions) == 80
    objects = store.list("Cluster").items
    assert len(objects) == 10
    # Each of the eight writers changed every object to a different spec: no write was lost.
    assert [o.metadata.generation for o in objects] == [8] * 10
    assert max(versions) == max(o.metadata.resource_version for o in objects)
    assert len(store.audit_log("growth", limit=1000).items) == 80


def test_concurrent_increments_in_transactions_lose_none(store: Store) -> None:
    uid = store.put("Cluster", "growth", "dev", {}, owner="ada", status={"count": 0})[0].metadata.uid

    def increment(_: int) -> None:
        for _ in range(10):
            with store.transaction():
                count = store.get_by_uid(uid).status_data["count"]
                store.set_status(uid, {"count": count + 1})

    in_threads(6, increment)
    assert store.get_by_uid(uid).status_data["count"] == 60


def test_transactions_that_touch_objects_in_opposite_orders_do_not_deadlock(store: Store) -> None:
    names = ["a", "b"]
    for name in names:
        store.put("Cluster", "growth", name, {"n": -1}, owner="ada")

    def write(worker: int) -> None:
        for number in range(5):
            with store.transaction():
                for name in names if worker % 2 else names[::-1]:
                    store.put("Cluster", "growth", name, {"n": worker * 100 + number}, owner="ada")

    in_threads(4, write)
    objects = [store.get("Cluster", "growth", name) for name in names]
    assert objects[0].spec_data == objects[1].spec_data
    assert [o.metadata.generation for o in objects] == [21, 21]


def test_a_reader_does_not_wait_for_a_writer(store: Store) -> None:
    store.put("Cluster", "growth", "dev", {"size": "old"}, owner="ada")
    with store.transaction(), ThreadPoolExecutor(1) as pool:
        store.put("Cluster", "growth", "dev", {"size": "new"}, owner="ada")
        cluster = pool.submit(lambda: store.get("Cluster", "growth", "dev")).result(timeout=5)
    assert cluster.spec_data == {"size": "old"}


def test_committed_writes_survive_a_kill_and_uncommitted_ones_do_not(store: Store, store_url: str) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from rayplane.gateway.store import Store
        store = Store(sys.argv[1])
        store.put("Cluster", "growth", "kept", {}, owner="ada")
        with store.transaction():
            store.put("Cluster", "growth", "lost", {}, owner="ada")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    killed = subprocess.run([sys.executable, "-c", program, store_url], env=os.environ, timeout=60, check=False)
    assert killed.returncode == -9
    assert [o.metadata.name for o in store.list("Cluster").items] == ["kept"]
    store.put("Cluster", "growth", "next", {}, owner="ada")


def test_two_processes_write_to_one_database(store: Store, store_url: str) -> None:
    program = textwrap.dedent(
        """
        import sys
        from rayplane.gateway.store import Store
        store = Store(sys.argv[1])
        for number in range(20):
            store.put("Cluster", "growth", f"c{number}", {"by": sys.argv[2]}, owner=sys.argv[2])
        """
    )
    children = [subprocess.Popen([sys.executable, "-c", program, store_url, str(n)]) for n in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert [o.metadata.generation for o in store.list("Cluster").items] == [2] * 20


def test_an_unreachable_database_is_unavailable_and_the_error_hides_its_password(tmp_path: Path) -> None:
    store = Store("postgresql+psycopg://ada:hunter2@127.0.0.1:1/none")
    with pytest.raises(Unavailable) as caught:
        store.list("Cluster")
    assert "127.0.0.1:1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_a_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        Store(f"sqlite:///{path}").migrate()


@pytest.mark.parametrize("url", ["", "nonsense", "mongodb://x/y", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_is_unfit_for_a_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        Store(url)
