"""The step cache on 30 days of real flights: only changed steps and their dependants are run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rayplane.nouns.pipeline import RunStatus
from rayplane.storage import layout
from rayplane.storage.root import open_root
from tests.support.flights import TEAM, Flights, ran, version_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# The tests of the whole pipeline run training and later steps; here they would only take time.
STEPS = [
    "ingest-flights", "ingest-weather", "ingest-planes", "ingest-airports", "prepare",
    "weather-features", "delay-features", "plane-features", "training-set",
]  # fmt: skip


@pytest.fixture(scope="module")
def cached(flights: Flights, run: RunStatus, tmp_path_factory: pytest.TempPathFactory) -> Flights:
    """The pipeline's first steps after a run of all of them, on copies of code and sources that tests may change."""
    assert ran(run) >= set(STEPS)
    copy = tmp_path_factory.mktemp("cache")
    shutil.copytree(flights.folder, copy / "code")
    shutil.copytree(flights.sources, copy / "raw")
    made = replace(flights, folder=copy / "code", sources=copy / "raw")
    made.apply(only=STEPS)
    return made


def test_an_unchanged_run_runs_no_step(cached: Flights) -> None:
    assert ran(cached.run()) == set()


def test_reordered_rows_run_no_step(cached: Flights) -> None:
    path = cached.sources / "flights.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), path)
    assert ran(cached.run()) == set()


def test_one_changed_flight_runs_its_ingest_and_the_steps_whose_inputs_changed(cached: Flights) -> None:
    path = cached.sources / "flights.parquet"
    table = pq.read_table(path)
    late = pc.add(
        table["arr_delay"], pc.cast(pc.equal(pc.sort_indices(table["time_hour"]), 7), table["arr_delay"].type)
    )
    place = table.schema.get_field_index("arr_delay")
    pq.write_table(table.set_column(place, table.schema.field(place), late), path)
    assert ran(cached.run()) == {"ingest-flights", "prepare", "delay-features", "training-set"}


def test_changed_code_of_one_feature_runs_exactly_its_dependants(cached: Flights) -> None:
    code = cached.folder / "jobs" / "weather_features.py"
    code.write_text(code.read_text() + "\n\n# another way to say the same\n")
    cached.apply(only=STEPS)
    first = cached.run()
    # The changed code produced the same rows, so the steps that read them are cached.
    assert ran(first) == {"weather-features"}
    text = code.read_text()
    changed = text.replace("INTERVAL 5 HOURS", "INTERVAL 4 HOURS")
    assert changed != text
    code.write_text(changed)
    cached.apply(only=STEPS)
    assert ran(cached.run()) == {"weather-features", "training-set"}


def test_a_deleted_output_is_rebuilt(cached: Flights) -> None:
    before = cached.run()
    version = version_of(before, "plane-features", "plane-features")
    storage = open_root(f"file://{cached.platform.home.storage}")
    storage.delete(layout.dataset_version(TEAM, "plane-features", version))
    after = cached.run()
    assert ran(after) == {"plane-features"}
    assert version_of(after, "plane-features", "plane-features") == version
    assert Path(str(storage.local_path(layout.dataset_version(TEAM, "plane-features", version)))).is_dir()
