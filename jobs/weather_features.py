"""Make features of each origin's hourly weather: dataset ``weather-features``. An hour is known once observed."""

from __future__ import annotations

import pyarrow as pa

from jobs import flights_data
from jobs.flights_data import WEATHER_FEATURES

KNOWN_AT = "observed_at"
"""Column of a weather row with the instant at which it becomes known."""


def main() -> None:
    """Read ``weather``, publish ``weather-features``."""
    from rayplane.runtime import datasets, report

    version = datasets.publish("weather-features", weather_features(datasets.read("weather")), inputs=["weather"])
    report.output("weather-features", {"version": version.version, "rows": version.rows})
    print(f"weather-features@{version.version}: {version.rows} rows")


def weather_features(weather: pa.Table) -> pa.Table:
    """One row per (origin, event_timestamp) in that order, with ``WEATHER_FEATURES``.

    Beside the hour's own values: precipitation of the last 6 hours (inches), the lowest visibility of the last 3
    hours (miles), and the change of pressure over 3 hours (mbar), null if the earlier hour is missing.
    Raises ``BadInput`` for a missing column or no rows.
    """
    flights_data.require_columns(
        weather, ["origin", KNOWN_AT], what="The dataset 'weather'", remedy="Make it again: python -m jobs.prepare."
    )
    # Precipitation is summed in hundredths of an inch, its precision, since a sum of floats depends on their order.
    return flights_data.query(
        f"""
        SELECT now.origin, now.{KNOWN_AT} AS event_timestamp,
            {", ".join(f"CAST(now.{name} AS FLOAT) AS {name}" for name in WEATHER_FEATURES[:8])},
            CAST(sum(CAST(round(now.precip * 100) AS INT)) OVER (hours RANGE INTERVAL 5 HOURS PRECEDING) / 100 AS FLOAT)
                AS precip_6h,
            CAST(min(now.visib) OVER (hours RANGE INTERVAL 2 HOURS PRECEDING) AS FLOAT) AS visib_min_3h,
            CAST(now.pressure - earlier.pressure AS FLOAT) AS pressure_change_3h
        FROM weather now LEFT JOIN weather earlier
            ON earlier.origin = now.origin AND earlier.{KNOWN_AT} = now.{KNOWN_AT} - INTERVAL 3 HOURS
        WINDOW hours AS (PARTITION BY now.origin ORDER BY now.{KNOWN_AT})
        ORDER BY 1, 2
        """,
        weather=weather,
    )


if __name__ == "__main__":
    flights_data.run(main)
