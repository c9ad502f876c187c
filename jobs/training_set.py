"""Join each flight with the features known one hour before its scheduled departure: dataset ``training-set``."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from jobs import flights_data
from jobs.flights_data import BadInput

REQUEST_COLUMNS = ["distance", "scheduled_minute", "weekday", "day_of_year", "month"]
"""Features of a flight that its schedule alone determines."""

KEPT_COLUMNS = ["scheduled_at", "outcome", flights_data.LABEL]
"""Columns that are added after the join, so that none of them can become a feature."""


def main() -> None:
    """Apply the feature definitions to the pinned datasets, join through Feast, publish ``training-set``."""
    from features import definitions
    from rayplane.runtime import datasets, features, report

    flights = datasets.read("flights")
    features.apply(definitions, sources=definitions.SOURCES)
    joined = training_set(flights, lambda rows: features.training_frame(rows, definitions.FEATURE_SERVICE))
    version = datasets.publish("training-set", joined, inputs=["flights", *definitions.SOURCES.values()])
    report.output("training-set", {"version": version.version, "rows": version.rows})
    report.output("feature_service", definitions.FEATURE_SERVICE)
    print(f"training-set@{version.version}: {version.rows} rows, {len(flights_data.FEATURES)} features")


def entity_rows(flights: pa.Table) -> pa.Table:
    """One row per flight with the columns that Feast needs to look up and compute its features as of ``predict_at``.

    A flight without a tail number gets the empty string, which no plane has. Raises ``BadInput`` for a missing column
    or no rows.
    """
    keys = ["flight_id", "origin", "carrier", "route", "tailnum", "predict_at"]
    flights_data.require_columns(
        flights,
        [*keys, *REQUEST_COLUMNS, *KEPT_COLUMNS],
        what="The dataset 'flights'",
        remedy="Make it again: python -m jobs.prepare.",
    )
    request = ", ".join(f"CAST({name} AS BIGINT) AS {name}" for name in REQUEST_COLUMNS)  # declared Int64 in Feast
    return flights_data.query(
        f"""
        SELECT flight_id, origin, carrier, route, coalesce(tailnum, '') AS tailnum, predict_at AS event_timestamp,
            {request}
        FROM flights ORDER BY flight_id
        """,
        flights=flights,
    )


def training_set(flights: pa.Table, join: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """All flights, labelled or not, with their features as of ``predict_at``, in order of ``flight_id``.

    ``join`` is the point-in-time join that appends the features to the entity rows: the platform's, or plain Feast's.
    A feature with no value inside its view's TTL is null. Raises ``BadInput`` if the join loses or adds a flight.
    """
    return _finished(join(entity_rows(flights)), flights)


def _finished(joined: pa.Table, flights: pa.Table) -> pa.Table:
    """Add label and schedule to the joined rows, and give every column its position and type."""
    keys = ["flight_id", "origin", "carrier", "route", "tailnum", "event_timestamp", *REQUEST_COLUMNS]
    features = [name for name in flights_data.FEATURES if name not in keys]
    columns = [f"joined.{name}" for name in keys[:5]]
    columns += ["CAST(joined.event_timestamp AS TIMESTAMPTZ) AS event_timestamp"]
    columns += [f"flights.{name}" for name in KEPT_COLUMNS]
    columns += [f"CAST(joined.{name} AS INT) AS {name}" for name in REQUEST_COLUMNS]
    columns += [
        f"joined.{name}" if name in flights_data.CATEGORIES else f"CAST(joined.{name} AS FLOAT) AS {name}"
        for name in features
    ]
    table = flights_data.query(
        f"SELECT {', '.join(columns)} FROM joined JOIN flights USING (flight_id) ORDER BY flight_id",
        joined=joined,
        flights=flights,
    )
    if table.num_rows != flights.num_rows or pc.count_distinct(table["flight_id"]).as_py() != flights.num_rows:
        raise BadInput(
            f"The join of {flights.num_rows} flights gave {table.num_rows} rows. Some flight_id occurs more than once: "
            "make the dataset 'flights' again: python -m jobs.prepare."
        )
    return table


if __name__ == "__main__":
    flights_data.run(main)
