"""The reference team's features in Feast: entities, views over the jobs' datasets, on-demand calendar, one service.

The module contains no path: the caller of ``build``, which knows the wanted version of each dataset, passes the path of
its Parquet.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int32, Int64, String
from feast.value_type import ValueType

from jobs import flights_data

FEATURE_SERVICE = flights_data.FEATURE_SERVICE
SOURCES = flights_data.FEATURE_SOURCES
"""View -> the dataset that feeds it."""

TTLS: dict[str, timedelta] = {
    "origin_weather": timedelta(hours=3),
    "origin_delays": timedelta(hours=2),
    "carrier_delays": timedelta(hours=2),
    "route_delays": timedelta(hours=2),
    "plane_delays": timedelta(days=3),
    "plane": timedelta(0),
}
"""View -> greatest age of a value that is used; an older one is missing. Zero: any age. Delays of origins, carriers and
routes have a snapshot at every tick (jobs.delay_features.TICKS); two ticks tolerate one late snapshot."""


def build(source_path: Callable[[str], str]) -> list[Any]:
    """All Feast objects of the team; ``source_path(dataset name)`` returns the path of the dataset's Parquet."""
    origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
    carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
    route = Entity(name="route", join_keys=["route"], value_type=ValueType.STRING, description="origin-dest")
    plane = Entity(name="plane", join_keys=["tailnum"], value_type=ValueType.STRING)

    def view(name: str, entity: Entity, fields: list[Field]) -> FeatureView:
        dataset = SOURCES[name]
        source = FileSource(name=dataset, path=source_path(dataset), timestamp_field="event_timestamp")
        # With the join keys declared too, Feast infers nothing from the files, so apply() reads none.
        keys = [Field(name=entity.join_key, dtype=String)]
        return FeatureView(name=name, entities=[entity], ttl=TTLS[name], schema=[*keys, *fields], source=source)

    views = [
        view("origin_weather", origin, _floats(flights_data.WEATHER_FEATURES)),
        view("origin_delays", origin, _rolling(flights_data.window_names("origin"))),
        view("carrier_delays", carrier, _rolling(flights_data.window_names("carrier"))),
        view("route_delays", route, _rolling(flights_data.window_names("route"))),
        view("plane_delays", plane, _rolling(flights_data.PLANE_DELAY_FEATURES)),
        view("plane", plane, _register()),
    ]
    calendar = _calendar()
    service = FeatureService(name=FEATURE_SERVICE, features=[*views, calendar])
    return [origin, carrier, route, plane, *views, calendar, service]


def _floats(names: list[str]) -> list[Field]:
    return [Field(name=name, dtype=Float32) for name in names]


def _rolling(names: list[str]) -> list[Field]:
    """Fields of rolling columns: counts are integers, delays (minutes) and late shares are floats."""
    counts = ("_departures_", "_arrivals_")
    return [Field(name=name, dtype=Int32 if any(part in name for part in counts) else Float32) for name in names]


def _register() -> list[Field]:
    texts = flights_data.CATEGORIES
    return [Field(name=name, dtype=String if name in texts else Int32) for name in flights_data.PLANE_FEATURES]


def _calendar() -> Any:
    """The on-demand view ``flight_calendar``: time of day and season of the departure, as points on a circle."""
    request = RequestSource(
        name="flight_request",
        schema=[Field(name="scheduled_minute", dtype=Int64), Field(name="day_of_year", dtype=Int64)],
    )

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[request],
        schema=[Field(name=name, dtype=Float64) for name in flights_data.CALENDAR_FEATURES],
        mode="pandas",
    )
    def flight_calendar(inputs: pd.DataFrame) -> pd.DataFrame:
        # Feast serializes the function by value, without this module's imports.
        import numpy as np
        import pandas as pd

        day = inputs["scheduled_minute"].astype("float64") * (2 * np.pi / 1440)
        year = inputs["day_of_year"].astype("float64") * (2 * np.pi / 365.25)
        return pd.DataFrame(
            {
                "time_of_day_sin": np.sin(day),
                "time_of_day_cos": np.cos(day),
                "season_sin": np.sin(year),
                "season_cos": np.cos(year),
            }
        )

    return flight_calendar
