"""Read and publish immutable dataset versions."""

from __future__ import annotations

from rayplane.runtime.datasets.hash import content_hash
from rayplane.runtime.datasets.reader import latest, mlflow_input, path, read, read_ray, version
from rayplane.runtime.datasets.sources import open_source
from rayplane.runtime.datasets.writer import publish

__all__ = [
    "content_hash",
    "latest",
    "mlflow_input",
    "open_source",
    "path",
    "publish",
    "read",
    "read_ray",
    "version",
]
