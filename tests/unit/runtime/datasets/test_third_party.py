"""Data sources and storage schemes of a third party: read a source, and publish and read a dataset on its storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayplane.errors import InvalidData, NotFound, Unsupported
from rayplane.nouns.job import RunContext
from rayplane.runtime import context, datasets, report
from rayplane.runtime.datasets.observe import observe

pytestmark = pytest.mark.usefixtures("third_party")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as made, made:
        made.execute('CREATE TABLE "sales of 2013" (id INTEGER, price REAL, name TEXT)')
        made.executemany('INSERT INTO "sales of 2013" VALUES (?, ?, ?)', [(1, 2.5, "a"), (2, None, "b")])
        made.execute("CREATE TABLE no_sales (id INTEGER)")
    return path


def test_a_source_is_read_by_its_scheme(database: Path) -> None:
    table = datasets.open_source(f"sqlite://{database}#sales%20of%202013")
    assert table.to_pylist() == [{"id": 1, "price": 2.5, "name": "a"}, {"id": 2, "price": None, "name": "b"}]


def test_the_types_of_a_source_and_its_rows_are_checked_as_those_of_every_source(database: Path) -> None:
    uri = f"sqlite://{database}#sales%20of%202013"
    assert datasets.open_source(uri, pa.schema([("id", pa.int32())])).schema.field("id").type == pa.int32()
    with pytest.raises(InvalidData, match="no column 'amount'"):
        datasets.open_source(uri, pa.schema([("amount", pa.int32())]))
    with pytest.raises(InvalidData, match="has no rows"):
        datasets.open_source(f"sqlite://{database}#no_sales")


def test_the_error_of_the_source_itself_passes(database: Path) -> None:
    with pytest.raises(NotFound, match="no such table: returns"):
        datasets.open_source(f"sqlite://{database}#returns")


def test_a_misspelt_scheme_is_refused_with_the_nearest_known_one(database: Path) -> None:
    with pytest.raises(Unsupported, match=r"Source 'sqlit://.* can't be read: .* Did you mean 'sqlite'\?"):
        datasets.open_source(f"sqlit://{database}#sales")


def test_a_job_observes_the_source(job: RunContext, gateway: Any, database: Path) -> None:
    job.sources["sales"] = f"sqlite://{database}#sales%20of%202013"
    (event,) = observe()
    assert (event.data["name"], event.data["rows"]) == ("sales", 2)
    assert report.flush(10)
    assert [posted["type"] for posted in gateway.events()] == ["source.observed"]


def test_a_dataset_is_published_on_and_read_from_the_storage(
    make_context: Callable[..., RunContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_VOLUMES", str(tmp_path / "mnt"))
    root = "volume://data/rayplane"
    rows = pa.table({"id": [1, 2], "name": ["a", "b"]})
    with context.override(make_context(storage_root=root, job_uri=f"{root}/growth/jobs/uid1")) as job:
        published = datasets.publish("sales", rows)
        assert published.uri == f"{root}/growth/datasets/sales/{published.version}"
        job.inputs["sales"] = published.version
        assert datasets.read("sales").to_pylist() == rows.to_pylist()
        assert report.flush(10)
    folder = tmp_path / "mnt/data/rayplane/growth"
    assert (folder / "datasets/sales" / published.version / "part-00000.parquet").is_file()
    assert len(list((folder / "jobs/uid1/events").iterdir())) == 1
