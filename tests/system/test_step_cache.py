"""The step cache on 30 days of real flights: what changed is run, with all that depends on it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rayplane.storage import layout
from rayplane.storage.root import open_root
from tests.support.flights import TEAM, Flights, ran, version_of
from tests.support.local_platform import LocalPlatform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Training and what follows it are run by the tests of the whole path; here they would only take time.
STEPS = [
    "ingest-flights", "ingest-weather", "ingest-planes", "ingest-airports", "prepare",
    "weather-features", "delay-features", "plane-features", "training-set",
]  # fmt: skip


@pytest.fixture(scope="module")
def flights(platform_up: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Flights:
    """The pipeline after a first run, in which every step was run."""
    made = Flights.slice(platform_up, tmp_path_factory.mktemp("cache"), days=30)
    made.apply(only=STEPS)
    # No other test of the session runs 29 days: what depends on the days was not in the cache.
    assert ran(made.run(days="29")) >= {"ingest-flights", "ingest-weather", "prepare", "delay-features", "training-set"}
    return made


def test_an_unchanged_run_runs_nothing(flights: Flights) -> None:
    assert ran(flights.run(days="29")) == set()


def test_reordered_rows_run_nothing(flights: Flights) -> None:
    path = flights.sources / "flights.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), path)
    assert ran(flights.run(days="29")) == set()


def test_one_changed_flight_runs_its_ingest_and_the_steps_whose_inputs_changed(flights: Flights) -> None:
    path = flights.sources / "flights.parquet"
    table = pq.read_table(path)
    late = pc.add(
        table["arr_delay"], pc.cast(pc.equal(pc.sort_indices(table["time_hour"]), 7), table["arr_delay"].type)
    )
    place = table.schema.get_field_index("arr_delay")
    pq.write_table(table.set_column(place, table.schema.field(place), late), path)
    assert ran(flights.run(days="29")) == {"ingest-flights", "prepare", "delay-features", "training-set"}


def test_changed_code_of_one_feature_runs_exactly_its_dependants(flights: Flights) -> None:
    code = flights.folder / "jobs" / "weather_features.py"
    code.write_text(code.read_text() + "\n\n# another way to say the same\n")
    flights.apply(only=STEPS)
    first = flights.run(days="29")
    # The same rows came out of the changed code, so what reads them stays as it was.
    assert ran(first) == {"weather-features"}
    text = code.read_text()
    changed = text.replace("INTERVAL 5 HOURS", "INTERVAL 4 HOURS")
    assert changed != text
    code.write_text(changed)
    flights.apply(only=STEPS)
    assert ran(flights.run(days="29")) == {"weather-features", "training-set"}


def test_a_deleted_output_is_rebuilt(flights: Flights) -> None:
    before = flights.run(days="29")
    version = version_of(before, "plane-features", "plane-features")
    storage = open_root(f"file://{flights.platform.home.storage}")
    storage.delete(layout.dataset_version(TEAM, "plane-features", version))
    after = flights.run(days="29")
    assert ran(after) == {"plane-features"}
    assert version_of(after, "plane-features", "plane-features") == version
    assert Path(str(storage.local_path(layout.dataset_version(TEAM, "plane-features", version)))).is_dir()
