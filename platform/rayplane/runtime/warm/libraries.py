"""Import the libraries that a warm interpreter needs before it forks: those that most of the node's processes import.

Ray is not among them, nor anything that imports it. Its C++ part reads the worker's job, the raylet and all RAY_*
settings when it is loaded (2.60), so each child must load its own; with Ray's dependencies imported that takes 0.1 s.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import cast

log = logging.getLogger(__name__)

NAMES = (
    *("numpy", "pyarrow", "pyarrow.parquet", "pyarrow.dataset", "pyarrow.fs", "pandas", "duckdb", "fsspec", "scipy"),
    "prometheus_client",  # before Feast, whose metrics would make it use files that all children share
    *("mlflow", "sklearn", "xgboost", "feast"),
    # Dependencies of Ray, its job supervisor, Data, Train and Serve.
    *(
        "aiohttp",
        "aiosignal",
        "cloudpickle",
        "colorama",
        "filelock",
        "google.protobuf",
        "grpc",
        "grpc.aio",
        "jsonschema",
    ),
    *("multidict", "opentelemetry.sdk.metrics", "packaging.version", "psutil", "pydantic"),
    *("requests", "httpx", "pydantic_settings", "starlette", "fastapi", "tqdm", "uvicorn", "uvloop", "yaml"),
)


_FEAST_METRICS = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
"""Unless these variables name a folder, Feast's metrics make a temporary one (0.67); nothing is written there."""


def load(folder: str) -> None:
    """Import each library that is installed; a failing one is left to the processes that use it.

    ``folder`` must exist for as long as this process lives.
    """
    filters = list(warnings.filters)
    for name in _FEAST_METRICS:  # they would make prometheus_client keep metrics in files that all children share
        os.environ.pop(name, None)
    for name in NAMES:
        try:
            if name == "feast":
                importlib.import_module("rayplane.runtime.feast_import").without_type_checks()
                os.environ.update(dict.fromkeys(_FEAST_METRICS, folder))
            importlib.import_module(name)
        except Exception as exc:  # noqa: BLE001  also for a broken library: its user will get the error
            log.info("%s is not preloaded: %s", name, exc)
    for name in (*_FEAST_METRICS, "_MLFLOW_TELEMETRY_SESSION_ID"):  # the latter would be the same for all children
        os.environ.pop(name, None)
    _drop_sweeping_filters(filters)
    if "ray" in sys.modules:
        raise RuntimeError("Ray was imported by a library of warm/libraries.py: take that one out.")


def _drop_sweeping_filters(before: Sequence[object]) -> None:
    """Remove warning filters by which a library (Feast 0.67) shows all warnings of a built-in category."""
    sweeping = [
        item
        for item in warnings.filters
        if item not in before and item[1] is None and item[3] is None and item[2].__module__ == "builtins"
    ]
    remaining = [item for item in warnings.filters if item not in sweeping]
    cast(list[object], warnings.filters)[:] = remaining
