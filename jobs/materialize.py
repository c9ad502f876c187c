"""Write the features, as known at an instant, to the online store, from which serving reads them.

    python -m jobs.materialize

The parameter ``materialize_at`` (ISO 8601 with a zone) is that instant; default: that of the newest fact in the data.
"""

from __future__ import annotations

from datetime import UTC, datetime

from jobs import flights_data
from jobs.flights_data import BadInput

VIEWS_OF_FACTS = ("origin_weather", "plane_delays")
"""Views whose newest row has the instant of the newest fact. The snapshots of origins, carriers and routes continue
after it until their windows are empty."""


def main() -> None:
    """Apply the feature definitions to the pinned datasets, materialize every view, report the instant and views."""
    from features import definitions
    from rayplane.runtime import context, features, report

    wanted = parse_instant(context.current().parameters.get("materialize_at"))
    versions = features.apply(definitions, sources=definitions.SOURCES)
    done = features.materialize(end=wanted or features.latest_event(VIEWS_OF_FACTS))
    report.output("materialized_at", done.end.isoformat().replace("+00:00", "Z"))
    report.output("feature_views", [version.view for version in versions])
    for view, rows in sorted(done.rows.items()):
        print(f"{view}: {rows} entities as of {done.end.isoformat()}")


def parse_instant(text: str | None) -> datetime | None:
    """The parameter ``materialize_at`` in UTC, or None if it is not set. Raises ``BadInput``."""
    if text is None or not text.strip():
        return None
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise BadInput(
            f"The parameter materialize_at={text!r} is no instant. Write it as 2013-12-31T18:00:00Z."
        ) from error
    if instant.tzinfo is None:
        raise BadInput(f"The parameter materialize_at={text!r} has no zone. Write it as 2013-12-31T18:00:00Z.")
    return instant.astimezone(UTC)


if __name__ == "__main__":
    flights_data.run(main)
