"""Delete the projects of purged teams from Feast's SQL registry, without importing Feast."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import column, create_engine, delete, inspect, table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from rayplane.errors import Unavailable

_PROJECT = "project_id"
TABLES = (
    *("entities", "data_sources", "feature_views", "stream_feature_views", "on_demand_feature_views", "label_views"),
    *("feature_services", "saved_datasets", "validation_references", "managed_infra", "permissions"),
    *("feature_view_version_history", "feast_metadata", "projects"),
)
"""Tables of Feast 0.67 with rows of a project."""


def forget_project(url: str, project: str) -> None:
    """Delete all rows of a project from a registry; none is success. Raises Unavailable if it can't be written."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return
    engine = create_engine(parsed)
    try:
        there = set(inspect(engine).get_table_names())
        with engine.begin() as connection:
            for name in (name for name in TABLES if name in there):
                of_it = table(name, column(_PROJECT))
                connection.execute(delete(of_it).where(of_it.c[_PROJECT] == project))
    except DBAPIError as exc:
        raise Unavailable(
            f"Feast's registry {parsed.render_as_string(hide_password=True)} can't be written: {exc.orig}.",
            remedy="Check that RAYPLANE_FEAST_REGISTRY_URL names it and that nothing keeps it locked.",
        ) from exc
    finally:
        engine.dispose()
