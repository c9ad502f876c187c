"""Make features of each plane from the aircraft register: dataset ``plane-features``."""

from __future__ import annotations

import pyarrow as pa

from jobs import flights_data

KNOWN_SINCE = "2000-01-01 00:00:00+00"
"""The register has no dates: its entries count as known from this instant, long before the first flight."""


def main() -> None:
    """Read ``planes``, publish ``plane-features``."""
    from rayplane.runtime import datasets, report

    version = datasets.publish("plane-features", plane_features(datasets.read("planes")), inputs=["planes"])
    report.output("plane-features", {"version": version.version, "rows": version.rows})
    print(f"plane-features@{version.version}: {version.rows} rows")


def plane_features(planes: pa.Table) -> pa.Table:
    """One row per ``tailnum``, in that order: year built, seats, engines, kind of engine, manufacturer.

    Raises ``BadInput`` for a missing column or no rows.
    """
    columns = ["tailnum", "year", "seats", "engines", "engine", "manufacturer"]
    flights_data.require_columns(
        planes, columns, what="The dataset 'planes'", remedy="Make it again: python -m jobs.prepare."
    )
    return flights_data.query(
        f"""
        SELECT tailnum, TIMESTAMPTZ '{KNOWN_SINCE}' AS event_timestamp,
            {", ".join(f"{name} AS plane_{name}" for name in columns[1:])}
        FROM planes ORDER BY tailnum
        """,
        planes=planes,
    )


if __name__ == "__main__":
    flights_data.run(main)
