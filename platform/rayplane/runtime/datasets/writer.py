"""Publish a table as an immutable dataset version: write it aside, make it visible by one rename, then report it."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayplane.errors import InvalidData, InvalidInput, Unsupported
from rayplane.nouns.base import check_name
from rayplane.nouns.dataset import Column, DatasetRef, DatasetVersion
from rayplane.runtime import context, report
from rayplane.runtime.datasets.hash import canonical, content_hash, type_name
from rayplane.runtime.datasets.reader import version as version_of
from rayplane.runtime.datasets.stats import statistics
from rayplane.storage.layout import VERSION_FILE, dataset_version
from rayplane.storage.root import Storage, room

PART_ROWS = 4_000_000
ROW_GROUP = 128 * 1024
PARTIAL = ".partial-"
STALE_SECONDS = 24 * 3600.0
"""A folder that has been in writing for longer than this was left over by a killed process."""


def publish(
    name: str,
    data: Any,
    *,
    inputs: Sequence[str | DatasetRef | DatasetVersion] = (),
    sources: Mapping[str, str] | None = None,
    allow_empty: bool = False,
) -> DatasetVersion:
    """Publish ``data`` as a version of the dataset ``name``; publishing the same rows again rewrites nothing.

    ``data`` is a ``pyarrow.Table`` or a ``ray.data.Dataset``; the latter is gathered in this process' memory.
    ``inputs`` are the datasets it was made from (a name means the version that this job reads), ``sources`` the URIs
    outside the platform with their content hash: both become lineage. Raises InvalidInput for a wrong name or another
    type of data; InvalidData for no columns, for a column that can't be hashed, and for no rows unless ``allow_empty``;
    StorageFull, leaving nothing behind.
    """
    _check_name(name)
    table = canonical(_gather(data))
    _check_content(name, table, allow_empty)
    ctx = context.current()
    digest = content_hash(table)
    storage = context.storage()
    path = dataset_version(ctx.team, name, digest[:16])
    refs = [_ref(item) for item in inputs]
    version = _published(storage, path)
    if version is None:
        version = DatasetVersion(
            team=ctx.team,
            name=name,
            version=digest[:16],
            content_hash=digest,
            uri=storage.uri(path),
            rows=table.num_rows,
            bytes=0,
            columns=[Column(name=field.name, type=type_name(field.type)) for field in table.schema],
            statistics=statistics(table),
            inputs=refs,
            job=ctx.job,
        )
        version = _write(storage, path, _plain_strings(table), version)
    # Reported even if it existed: it may now be made from other inputs, or the earlier report may be lost.
    version = version.model_copy(update={"inputs": refs, "job": ctx.job})
    report.emit("dataset.published", version.model_dump(mode="json"))
    for uri, source_hash in (sources or {}).items():
        report.edge(f"source:{uri}#{source_hash}", f"dataset:{name}@{version.version}")
    return version


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except ValueError as exc:
        raise InvalidInput(f"A dataset can't be named so: {exc}.", remedy="Choose another name.") from exc


def _gather(data: Any) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if hasattr(data, "to_arrow_refs"):
        import ray

        schema = data.schema()
        blocks = [block for block in ray.get(data.to_arrow_refs()) if block.num_rows]
        if blocks:
            return pa.concat_tables(blocks, promote_options="permissive")
        return pa.schema(list(zip(schema.names, schema.types, strict=True))).empty_table() if schema else pa.table({})
    raise InvalidInput(
        f"A {type(data).__name__} can't be published.", remedy="Give a pyarrow.Table or a ray.data.Dataset."
    )


def _check_content(name: str, table: pa.Table, allow_empty: bool) -> None:
    if not table.num_columns:
        raise InvalidData(f"Dataset '{name}' would have no columns.", remedy="Give a table with at least one column.")
    if not table.num_rows and not allow_empty:
        raise InvalidData(
            f"Dataset '{name}' would have no rows.",
            remedy="Look at what it is made from; where no rows are right, publish with allow_empty=True.",
        )


def _ref(item: str | DatasetRef | DatasetVersion) -> DatasetRef:
    dataset = version_of(item) if isinstance(item, str) else item
    return DatasetRef(name=dataset.name, version=dataset.version)


def _published(storage: Storage, path: str) -> DatasetVersion | None:
    marker = f"{path}/{VERSION_FILE}"
    return DatasetVersion.model_validate_json(storage.read(marker)) if storage.exists(marker) else None


def _write(storage: Storage, path: str, table: pa.Table, version: DatasetVersion) -> DatasetVersion:
    local = storage.local_path(path)
    if local is None:
        raise Unsupported(
            f"Datasets can't be written to '{storage.root}' yet.", remedy="Use a storage root of scheme file."
        )
    target = Path(local)
    partial = target.parent / f"{PARTIAL}{uuid.uuid4().hex}"
    with room(f"publish dataset '{version.name}' ({version.rows} rows) at '{version.uri}'"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        try:
            partial.mkdir()
            _write_parts(partial, table)
            size = sum(part.stat().st_size for part in partial.iterdir())
            version = version.model_copy(update={"bytes": size})
            _write_durably(partial / VERSION_FILE, version.model_dump_json(indent=1).encode())
            _sync(partial)
            return _make_visible(partial, target, version)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _make_visible(partial: Path, target: Path, version: DatasetVersion) -> DatasetVersion:
    try:
        os.rename(partial, target)
    except OSError as exc:
        # If another process published the same rows first, its folder is this version.
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not (target / VERSION_FILE).exists():
            raise
        return DatasetVersion.model_validate_json((target / VERSION_FILE).read_bytes())
    _sync(target.parent)
    return version


def _write_parts(folder: Path, table: pa.Table) -> None:
    for number, start in enumerate(range(0, max(table.num_rows, 1), PART_ROWS)):
        part = folder / f"part-{number:05d}.parquet"
        with part.open("xb") as file:
            # Feast's DuckDB store needs microseconds; zstd needs half the bytes of snappy and reads as fast.
            pq.write_table(
                table.slice(start, PART_ROWS),
                file,
                compression="zstd",
                row_group_size=ROW_GROUP,
                coerce_timestamps="us",
            )
            file.flush()
            os.fsync(file.fileno())


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain_strings(table: pa.Table) -> pa.Table:
    """Give strings 32-bit offsets, as readers expect them, unless a chunk is too large for these."""
    fields = [
        pa.field(f.name, pa.string())
        if pa.types.is_large_string(f.type) and all(chunk.nbytes < 2**31 for chunk in table[f.name].chunks)
        else f
        for f in table.schema
    ]
    return table.cast(pa.schema(fields))


def _remove_stale(folder: Path) -> None:
    for partial in folder.glob(f"{PARTIAL}*"):
        try:
            stale = time.time() - partial.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            continue  # its own writer just finished
        if stale:
            shutil.rmtree(partial, ignore_errors=True)
