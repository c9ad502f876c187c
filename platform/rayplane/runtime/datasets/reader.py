"""Find and read dataset versions: the version pinned by the job's context, else the newest."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayplane.errors import InvalidData, NotFound, Unsupported
from rayplane.nouns.dataset import DatasetVersion
from rayplane.runtime import context, report
from rayplane.storage.layout import VERSION_FILE, dataset_version

if TYPE_CHECKING:
    import ray.data


def version(name: str) -> DatasetVersion:
    """The version of a dataset that this job reads: the pinned one, else the newest. Raises NotFound."""
    pinned = context.current().inputs.get(name)
    return _stored(name, pinned) if pinned else latest(name)


def latest(name: str) -> DatasetVersion:
    """The newest version of a dataset according to the gateway, even if another is pinned.

    Raises NotFound, Unavailable.
    """
    ctx = context.current()
    report.flush()  # so that the gateway knows the versions that this job has published itself
    answer = context.call(
        "GET", f"/v1/teams/{ctx.team}/datasets/{name}/versions", url=ctx.gateway_url, patience=context.PATIENCE
    )
    if not answer["items"]:
        raise NotFound(
            f"Dataset '{ctx.team}/{name}' has no version.",
            remedy="Run the step that publishes it, or see the names with 'rayplane dataset list'.",
        )
    return _stored(name, DatasetVersion.model_validate(answer["items"][0]).version)


def read(name: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a dataset (the pinned version, else the newest) in memory, in the order of their publication.

    Raises NotFound if there is no such dataset or version, InvalidData naming a column that it lacks.
    """
    wanted = version(name)
    missing = sorted({*(columns or ())} - {column.name for column in wanted.columns})
    if missing:
        raise InvalidData(
            f"Dataset '{wanted.team}/{name}' has no column '{missing[0]}' in version '{wanted.version}'.",
            remedy=f"It has {', '.join(column.name for column in wanted.columns)}.",
        )
    return pq.ParquetDataset(parts(wanted)).read(columns=None if columns is None else list(columns))


def read_ray(name: str) -> ray.data.Dataset:
    """The rows of a dataset (the pinned version, else the newest) as a Ray dataset. Raises NotFound.

    Not over a Ray Client (``ray://``): Ray Data needs a driver or a task on the cluster.
    """
    import ray.data

    # Ray 2.60's V2 Parquet reader takes tens of seconds on small files.
    settings = ray.data.DataContext.get_current()
    before, settings.use_datasource_v2 = settings.use_datasource_v2, False
    try:
        return ray.data.read_parquet(parts(version(name)))
    finally:
        settings.use_datasource_v2 = before


def path(name: str) -> str:
    """Path of a dataset's Parquet on this host: of its one file, or the pattern ``part-*.parquet`` if it has several.

    Raises NotFound if there is no such version, Unsupported if the storage root is not on a file system.
    """
    files = parts(version(name))
    return files[0] if len(files) == 1 else f"{files[0].rsplit('/', 1)[0]}/part-*.parquet"


def parts(wanted: DatasetVersion) -> list[str]:
    """The paths of a version's Parquet files, in the order of its rows. Raises NotFound, Unsupported as ``path``."""
    storage = context.storage()
    folder = storage.local_path(dataset_version(wanted.team, wanted.name, wanted.version))
    if folder is None:
        raise Unsupported(
            f"Datasets can't be read from '{storage.root}' yet.", remedy="Use a storage root of scheme file."
        )
    files = sorted(glob.glob(f"{glob.escape(folder)}/part-*.parquet"))
    if not files:
        raise _gone(wanted.name, wanted.version)
    return files


def mlflow_input(name: str) -> Any:
    """Make MLflow's description of a dataset version (the pinned one, else the newest) for ``mlflow.log_input``.

    It has the dataset's URI and name, and the version as its digest.
    """
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    wanted = version(name)
    with warnings.catch_warnings():
        # MLflow registers its source of local artifacts twice and warns that it chose one of the two.
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted in multiple ways")
        source = resolve_dataset_source(wanted.uri)
    dataset: Any = MetaDataset  # abstract only by its annotations: MLflow's own documentation instantiates it so
    return dataset(source, name=name, digest=wanted.version)


def _stored(name: str, wanted: str) -> DatasetVersion:
    ctx = context.current()
    marker = f"{dataset_version(ctx.team, name, wanted)}/{VERSION_FILE}"
    try:
        return DatasetVersion.model_validate_json(context.storage().read(marker))
    except NotFound as exc:
        raise _gone(name, wanted) from exc


def _gone(name: str, wanted: str) -> NotFound:
    team = context.current().team
    return NotFound(
        f"Version '{wanted}' of dataset '{team}/{name}' is not in the storage root.",
        remedy="It was deleted or never finished: run the pipeline again, which rebuilds it.",
    )
