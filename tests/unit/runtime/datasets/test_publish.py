"""Publishing: versions are immutable, visible whole or not at all, and reported with their lineage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayplane.errors import InvalidData, InvalidInput, NotFound, Unsupported
from rayplane.nouns.dataset import DatasetRef, DatasetVersion
from rayplane.nouns.job import RunContext
from rayplane.runtime import context, datasets, report

TABLE = pa.table({"n": [3, 1, 2], "s": ["c", "a", None], "at": pa.array([0, 1, None], pa.timestamp("s", tz="UTC"))})


@pytest.fixture
def folder(job: RunContext, tmp_path: Path) -> Path:
    return tmp_path / "storage/growth/datasets"


@pytest.fixture
def versions(gateway: Any) -> list[DatasetVersion]:
    """The versions of dataset 'd' that the gateway lists, newest first; a test fills the list."""
    listed: list[DatasetVersion] = []
    gateway.routes["GET", "/v1/teams/growth/datasets/d/versions"] = lambda body: (
        200,
        {"items": [v.model_dump(mode="json") for v in listed]},
    )
    return listed


def test_a_version_records_rows_schema_statistics_job_and_inputs(job: RunContext, folder: Path, gateway: Any) -> None:
    source = datasets.publish("source", TABLE)
    job.inputs["source"] = source.version
    made = datasets.publish("d", TABLE, inputs=["source"])
    assert made.version == made.content_hash[:16]
    assert made.content_hash == datasets.content_hash(TABLE)
    assert (made.rows, made.job) == (3, "job-1")
    assert made.inputs == [DatasetRef(name="source", version=source.version)]
    assert [(c.name, c.type) for c in made.columns] == [
        ("n", "int64"),
        ("s", "string"),
        ("at", "timestamp[us, tz=UTC]"),
    ]
    assert made.statistics["n"] == {"nulls": 0, "distinct": 3, "min": 1, "max": 3, "mean": 2.0}
    stored = folder / "d" / made.version
    assert sorted(p.name for p in stored.iterdir()) == ["_version.json", "part-00000.parquet"]
    assert made.bytes == (stored / "part-00000.parquet").stat().st_size
    assert DatasetVersion.model_validate_json((stored / "_version.json").read_bytes()) == made
    assert report.flush(10)
    published = [DatasetVersion.model_validate(e["data"]) for e in gateway.events() if e["type"] == "dataset.published"]
    assert published == [source, made]


def test_rows_are_read_back_in_order_with_instants_in_microseconds(job: RunContext, folder: Path) -> None:
    job.inputs["d"] = datasets.publish("d", TABLE).version
    back = datasets.read("d")
    assert back.to_pydict() == TABLE.to_pydict()
    assert back.schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert datasets.read("d", columns=["s"]).column_names == ["s"]
    with pytest.raises(InvalidData, match=r"no column 'm'.*It has n, s, at"):
        datasets.read("d", columns=["n", "m"])
    with duckdb.connect() as connection:
        assert connection.execute("SELECT sum(n) FROM read_parquet(?)", [datasets.path("d")]).fetchall() == [(6,)]


def test_publishing_the_same_rows_again_is_the_same_version_and_rewrites_nothing(folder: Path, gateway: Any) -> None:
    first = datasets.publish("d", TABLE)
    before = {p: p.stat().st_mtime_ns for p in (folder / "d" / first.version).iterdir()}
    again = datasets.publish("d", TABLE.take(pa.array([2, 0, 1])))
    assert again.version == first.version
    assert {p: p.stat().st_mtime_ns for p in (folder / "d" / first.version).iterdir()} == before
    assert report.flush(10)
    assert len(gateway.events()) == 2, "it is reported again: the first report may never have arrived"


def test_publishing_other_rows_adds_a_version_beside_the_first(folder: Path) -> None:
    first, second = datasets.publish("d", TABLE), datasets.publish("d", TABLE.slice(1))
    assert sorted(p.name for p in (folder / "d").iterdir()) == sorted([first.version, second.version])


def test_large_tables_are_split_and_read_back_whole(
    job: RunContext, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayplane.runtime.datasets.writer.PART_ROWS", 2)
    made = datasets.publish("d", TABLE)
    job.inputs["d"] = made.version
    assert len(list((folder / "d" / made.version).glob("part-*.parquet"))) == 2
    assert datasets.read("d")["n"].to_pylist() == [3, 1, 2]
    with duckdb.connect() as connection:
        assert connection.execute("SELECT count(*) FROM read_parquet(?)", [datasets.path("d")]).fetchall() == [(3,)]


def test_an_empty_dataset_is_refused_unless_allow_empty_is_set(job: RunContext, folder: Path) -> None:
    with pytest.raises(InvalidData, match=r"no rows.*allow_empty"):
        datasets.publish("d", TABLE.slice(0, 0))
    assert not folder.exists()
    job.inputs["d"] = datasets.publish("d", TABLE.slice(0, 0), allow_empty=True).version
    back = datasets.read("d")
    assert (back.num_rows, back.column_names) == (0, ["n", "s", "at"])


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("d", pa.table({}), InvalidData),
        ("d", pa.table({"a": [[1]]}), InvalidData),
        ("d", [1, 2], InvalidInput),
        ("Not A Name", TABLE, InvalidInput),
        ("../d", TABLE, InvalidInput),
    ],
)
def test_a_refused_publication_leaves_nothing_behind(
    folder: Path, gateway: Any, name: str, data: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        datasets.publish(name, data)
    assert not folder.exists()
    assert gateway.events() == []


def test_sources_become_lineage(folder: Path, gateway: Any) -> None:
    made = datasets.publish("d", TABLE, sources={"file:///in.csv": "abc"})
    assert report.flush(10)
    edges = [e["data"] for e in gateway.events() if e["type"] == "lineage"]
    assert [(e["source"], e["target"]) for e in edges] == [("source:file:///in.csv#abc", f"dataset:d@{made.version}")]


def test_a_process_killed_while_writing_leaves_no_version(folder: Path, make_context: Any) -> None:
    script = """
import os, sys, pyarrow as pa
from rayplane.nouns.job import RunContext
from rayplane.runtime import context, datasets
from rayplane.runtime.datasets import writer
writer._sync = lambda folder: os._exit(9)
with context.override(RunContext.model_validate_json(sys.argv[1])):
    datasets.publish("d", pa.table({"a": [1]}))
"""
    done = subprocess.run([sys.executable, "-c", script, make_context().model_dump_json()], timeout=60)
    assert done.returncode == 9
    leftovers = [p.name for p in (folder / "d").iterdir()]
    assert leftovers != [], "the kill came after the files were written"
    assert all(name.startswith(".partial-") for name in leftovers)
    assert list(context.storage().list("growth/datasets/d")) == []
    made = datasets.publish("d", pa.table({"a": [1]}))
    assert list(context.storage().list("growth/datasets/d")) == [made.version]


def test_the_leftovers_of_a_killed_process_are_removed_a_day_later(folder: Path) -> None:
    old, new = folder / "d/.partial-old", folder / "d/.partial-new"
    for partial in (old, new):
        partial.mkdir(parents=True)
    os.utime(old, (0, 0))
    datasets.publish("d", TABLE)
    assert not old.exists()
    assert new.exists(), "another process may be writing it"


def test_a_full_disk_is_an_error_with_a_remedy_and_leaves_nothing_behind(
    make_context: Any, tmp_path: Path, gateway: Any
) -> None:
    script = """
import json, os, subprocess, sys
folder, ctx = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
import pyarrow as pa
from rayplane.errors import StorageFull
from rayplane.nouns.job import RunContext
from rayplane.runtime import context, datasets
with context.override(RunContext.model_validate_json(ctx)):
    try:
        noise = os.urandom(2_000_000)
        datasets.publish("d", pa.table({"a": [noise[i : i + 20] for i in range(0, len(noise), 20)]}))
    except StorageFull as error:
        left = [name for _, folders, files in os.walk(folder) for name in folders + files]
        print(json.dumps({"error": str(error), "left": left}))
"""
    full = tmp_path / "full"
    full.mkdir()
    ctx = make_context(storage_root=f"file://{full}", job_uri=None, job=None)
    # A mount namespace of its own, so that no privilege is needed and no mount outlives the test.
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", script, str(full), ctx.model_dump_json()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "RAYPLANE_STORAGE_ROOT" in answer["error"]
    assert set(answer["left"]) <= {"growth", "datasets", "d"}
    assert gateway.events() == []


AT_ONCE = """
import sys, time
from pathlib import Path
import pyarrow as pa
from rayplane.nouns.job import RunContext
from rayplane.runtime import context, datasets
go, ctx = sys.argv[1:]
table = pa.table({"a": list(range(20_000))})
print("ready", flush=True)
while not Path(go).exists():
    time.sleep(0.001)
with context.override(RunContext.model_validate_json(ctx)):
    print(datasets.publish("d", table).version)
"""


def test_processes_that_publish_the_same_rows_at_once_all_succeed(
    folder: Path, make_context: Any, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path / "go"), make_context().model_dump_json()]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    answers = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, answers
    versions = {output.strip() for output, _ in answers}
    assert [p.name for p in (folder / "d").iterdir()] == list(versions)


def test_without_a_pinned_version_the_newest_one_that_the_gateway_lists_is_read(
    folder: Path, versions: list[DatasetVersion], gateway: Any
) -> None:
    older, newer = datasets.publish("d", TABLE), datasets.publish("d", TABLE.slice(1))
    versions[:] = [newer, older]
    assert datasets.version("d") == newer
    assert datasets.read("d").num_rows == 2


def test_a_pinned_version_is_read_even_if_there_is_a_newer_one(
    job: RunContext, folder: Path, versions: list[DatasetVersion]
) -> None:
    older, newer = datasets.publish("d", TABLE), datasets.publish("d", TABLE.slice(1))
    versions[:] = [newer, older]
    job.inputs["d"] = older.version
    assert datasets.read("d").num_rows == 3
    assert datasets.latest("d") == newer


def test_the_newest_version_includes_the_jobs_own_publication(
    folder: Path, gateway: Any, versions: list[DatasetVersion]
) -> None:
    def listed(body: Any) -> tuple[int, Any]:
        return 200, {"items": [e["data"] for e in reversed(gateway.events())]}

    gateway.routes["GET", "/v1/teams/growth/datasets/d/versions"] = listed
    made = datasets.publish("d", TABLE)
    assert datasets.latest("d").version == made.version


def test_a_dataset_without_versions_is_not_found(folder: Path, versions: list[DatasetVersion]) -> None:
    with pytest.raises(NotFound, match=r"'growth/d' has no version.*publishes"):
        datasets.read("d")


def test_a_deleted_version_is_not_found_and_the_remedy_says_how_to_rebuild_it(job: RunContext, folder: Path) -> None:
    made = datasets.publish("d", TABLE)
    job.inputs["d"] = made.version
    shutil.rmtree(folder / "d" / made.version)
    with pytest.raises(NotFound, match="run the pipeline again"):
        datasets.read("d")


def test_a_storage_root_without_paths_is_unsupported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplane.storage.file.FileStorage.local_path", lambda self, path: None)
    with pytest.raises(Unsupported, match="scheme file"):
        datasets.publish("d", TABLE)


def test_parquet_of_other_tools_reads_the_parts(job: RunContext, folder: Path) -> None:
    made = datasets.publish("d", TABLE)
    assert pq.read_table(folder / "d" / made.version).num_rows == 3, "Arrow ignores files whose names start with _"


def test_the_mlflow_input_has_the_uri_and_the_version(job: RunContext, folder: Path) -> None:
    made = datasets.publish("d", TABLE)
    job.inputs["d"] = made.version
    logged = datasets.mlflow_input("d")
    assert (logged.name, logged.digest) == ("d", made.version)
    assert json.loads(logged.to_dict()["source"])["uri"] == made.uri
