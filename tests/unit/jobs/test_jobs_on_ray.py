"""The jobs' ``main()`` from source to training set, on a local Ray, with an in-memory fake of the platform's code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs import delay_features, ingest, plane_features, prepare, training_set, weather_features
from tests.data.slices import write
from tests.support.warm import Warm, local_ray
from tests.unit.jobs.flight_tables import feast_join, feast_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Runtime:
    """An in-memory fake of the parts of ``rayplane.runtime`` that the jobs use."""

    def __init__(self, sources: dict[str, str], parameters: dict[str, str]) -> None:
        self.context = SimpleNamespace(sources=sources, parameters=parameters, inputs={})
        self.tables: dict[str, pa.Table] = {}
        self.inputs: dict[str, list[str]] = {}
        self.outputs: dict[str, Any] = {}

    def publish(self, name: str, data: Any, *, inputs: Any = (), sources: Any = None, allow_empty: bool = False) -> Any:
        import ray

        table = data if isinstance(data, pa.Table) else pa.concat_tables(ray.get(data.to_arrow_refs()))
        assert table.num_rows or allow_empty, f"{name} would be empty"
        self.tables[name], self.inputs[name] = table, list(inputs)
        return SimpleNamespace(name=name, version="0" * 16, rows=table.num_rows)

    def version(self, name: str) -> Any:
        return SimpleNamespace(name=name, rows=self.tables[name].num_rows)

    def read_ray(self, name: str) -> Any:
        import ray.data

        return ray.data.from_arrow(ingest.blocks(self.tables[name]))


@pytest.fixture(scope="module")
def ray_here(warm: Warm) -> Iterator[None]:
    with local_ray(warm, num_cpus=2, object_store_memory=300_000_000):
        yield


@pytest.fixture
def runtime(ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    from rayplane.runtime import context, datasets, features, report

    memory = Runtime(sources=write(tmp_path / "sources", 12), parameters={"days": "10"})
    monkeypatch.setattr(context, "current", lambda: memory.context)
    monkeypatch.setattr(datasets, "publish", memory.publish)
    monkeypatch.setattr(datasets, "read", lambda name: memory.tables[name])
    monkeypatch.setattr(datasets, "read_ray", memory.read_ray)
    monkeypatch.setattr(datasets, "version", memory.version)
    monkeypatch.setattr(report, "output", memory.outputs.__setitem__)
    stores: list[Any] = []

    def apply(module: Any, sources: dict[str, str]) -> None:
        views = {view: memory.tables[dataset] for view, dataset in sources.items()}
        (tmp_path / "feast").mkdir()
        stores.append(feast_store(tmp_path / "feast", views))

    monkeypatch.setattr(features, "apply", apply)
    monkeypatch.setattr(features, "training_frame", lambda rows, _service: feast_join(stores[0])(rows))
    return memory


def run_ingest(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs.ingest", table])
    ingest.main()


def test_the_jobs_make_the_training_set_from_the_source(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("flights", "weather", "planes", "airports"):
        run_ingest(monkeypatch, table)
    prepare.main()
    weather_features.main()
    delay_features.main()
    plane_features.main()
    training_set.main()

    tables = runtime.tables
    assert set(tables["flights-raw"]["day"].to_pylist()) == set(range(1, 11))
    assert tables["flights"].equals(prepare.prepare_flights(tables["flights-raw"], tables["airports-raw"]).good)
    assert tables["flights"].num_rows + tables["flights-quarantine"].num_rows == tables["flights-raw"].num_rows
    assert tables["training-set"].num_rows == tables["flights"].num_rows
    assert runtime.inputs["flights"] == ["flights-raw", "airports-raw"]
    assert set(runtime.inputs["training-set"]) >= {"flights", "route-delays", "weather-features"}
    assert runtime.outputs["prepared"]["flights"] == {"rows": tables["flights"].num_rows, "quarantined": 0}


def test_a_slice_without_rows_is_refused_with_a_remedy(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(runtime.context.sources["flights"].removeprefix("file://"))
    rows = pq.read_table(path)
    pq.write_table(rows.filter(pc.greater(rows["day"], 10)), path)
    with pytest.raises(ingest.BadInput, match=r"has no rows of table 'flights' from 1 to 10 January"):
        run_ingest(monkeypatch, "flights")
    assert "flights-raw" not in runtime.tables
