"""Register a repository's Feast objects, with pinned dataset versions as sources, and record the lineage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
from feast import FeatureStore, FeatureView, FileSource
from sqlalchemy.exc import DBAPIError

from rayplane.errors import InvalidData, InvalidInput, Unavailable
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.feature import FeatureViewVersion
from rayplane.runtime import datasets, report
from rayplane.runtime.features.project import store
from rayplane.storage.layout import VERSION_FILE
from rayplane.text import sql_name

TRIES = 6


def apply(
    module: str | ModuleType = "features.definitions", sources: Mapping[str, str] | None = None
) -> list[FeatureViewVersion]:
    """Register the objects that the module's ``build(source_path)`` returns with the team's Feast project.

    Registering the same objects again changes nothing.

    ``source_path(dataset)`` returns the Parquet path of the version that this job reads (the pinned one, else the
    newest). ``sources`` (view -> dataset), if given, must equal what the views read. Returns each view with its
    dataset's version. Raises InvalidInput for a module without ``build`` or for views that read something else;
    InvalidData if a view's data has two rows for one entity at one instant, since it is undefined which of them
    counts; Unavailable if Feast's registry can't be written.
    """
    used: dict[str, DatasetVersion] = {}
    objects = _build(module)(_resolver(used))
    views = [item for item in objects if isinstance(item, FeatureView)]
    entities = {item.name: item.join_key for item in objects if hasattr(item, "join_key")}
    versions = [view_version(view) for view in views]
    _check_sources(versions, sources)
    for view in views:
        _check_unique(view, [entities.get(name, name) for name in view.entities])
    _register(store(), objects)
    for item in versions:
        report.edge(f"dataset:{item.dataset}@{item.version}", f"view:{item.view}@{item.version}")
    return versions


def view_version(view: FeatureView) -> FeatureViewVersion:
    """The dataset version that feeds a view, read from the folder of its source.

    Raises InvalidInput for a source that is no dataset version.
    """
    marker = Path(source_of(view)).parent / VERSION_FILE
    if not marker.is_file():
        raise InvalidInput(
            f"Feature view '{view.name}' reads '{source_of(view)}', which is no dataset version.",
            remedy="Give its FileSource the path that build's source_path answers.",
        )
    dataset = DatasetVersion.model_validate_json(marker.read_bytes())
    return FeatureViewVersion(view=view.name, dataset=dataset.name, version=dataset.version)


def file_source(view: FeatureView) -> FileSource:
    """The FileSource of a view. Raises InvalidInput for a source of another kind."""
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise InvalidInput(
            f"Feature view '{view.name}' reads a {type(source).__name__}.",
            remedy="Give it a FileSource over a dataset.",
        )
    return source


def source_of(view: FeatureView) -> str:
    """The path (or pattern) of a view's Parquet. Raises InvalidInput as file_source does."""
    return str(file_source(view).path).removeprefix("file://")


def _build(module: str | ModuleType) -> Callable[[Callable[[str], str]], list[Any]]:
    try:
        loaded = import_module(module) if isinstance(module, str) else module
    except ModuleNotFoundError as exc:
        if exc.name is None or not str(module).startswith(exc.name):
            raise  # the module exists and imports one that does not
        raise InvalidInput(f"There is no module '{module}'.", remedy="Name the module that holds build().") from exc
    build: Callable[[Callable[[str], str]], list[Any]] | None = getattr(loaded, "build", None)
    if build is None:
        raise InvalidInput(
            f"Module '{loaded.__name__}' has no build().",
            remedy="Define build(source_path), returning the Feast objects.",
        )
    return build


def _resolver(used: dict[str, DatasetVersion]) -> Callable[[str], str]:
    def source_path(dataset: str) -> str:
        used.setdefault(dataset, datasets.version(dataset))
        return datasets.path(dataset)

    return source_path


def _check_sources(versions: list[FeatureViewVersion], sources: Mapping[str, str] | None) -> None:
    if sources is None:
        return
    for item in versions:
        if sources.get(item.view) != item.dataset:
            raise InvalidInput(
                f"Feature view '{item.view}' reads dataset '{item.dataset}', not '{sources.get(item.view)}'.",
                remedy="Correct the view's source or the mapping.",
            )


def _check_unique(view: FeatureView, keys: list[str]) -> None:
    source = file_source(view)
    if source.created_timestamp_column:
        return  # of two such rows Feast takes the one created last
    columns = ", ".join(sql_name(name) for name in [*keys, source.timestamp_field])
    with duckdb.connect() as connection:
        [(rows, distinct)] = connection.execute(
            f"SELECT count(*), count(DISTINCT ({columns})) FROM read_parquet(?)",
            [source_of(view)],
        ).fetchall()
    if rows != distinct:
        raise InvalidData(
            f"Feature view '{view.name}' has {rows - distinct} rows too many: same {', '.join(keys)} and "
            f"{source.timestamp_field} as another.",
            remedy="Publish one row for an entity at an instant, or name the source's created_timestamp_column.",
        )


def _register(feast: FeatureStore, objects: list[Any]) -> None:
    for attempt in range(TRIES):
        try:
            feast.apply(objects)
            return
        except DBAPIError as exc:
            # Two projects that write one SQL registry at once may lock or race each other; a retry is harmless.
            if attempt == TRIES - 1:
                raise Unavailable(
                    f"Feast's registry can't be written: {exc.orig}.",
                    remedy="Look at the registry's database, then run it again.",
                ) from exc
            time.sleep(0.2 * 2**attempt)
