"""The libraries that a warm interpreter has imported before it forks: what the node's processes would import anew.

Ray is not among them, nor anything that imports it: its C++ part reads the worker's job and raylet, and every RAY_*
setting, when it is loaded (2.60), so each child loads its own. With all that Ray stands on imported that takes 0.1 s.
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
    "prometheus_client",  # before Feast, whose metrics would switch it to files that all children share
    *("mlflow", "sklearn", "xgboost", "feast"),
    # What Ray, its job supervisor, its Data, Train and Serve stand on.
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
"""Feast's metrics make a folder in the temporary one unless these name it (0.67); nothing is ever written there."""


def load(folder: str) -> None:
    """Import each that is installed; one that can't be imported is left to the process that wants it.

    ``folder`` is one that stays for as long as this process lives.
    """
    filters = list(warnings.filters)
    for name in _FEAST_METRICS:  # by them prometheus_client would keep its figures in files that all children share
        os.environ.pop(name, None)
    for name in NAMES:
        try:
            if name == "feast":
                importlib.import_module("rayplane.runtime.feast_import").without_type_checks()
                os.environ.update(dict.fromkeys(_FEAST_METRICS, folder))
            importlib.import_module(name)
        except Exception as exc:  # noqa: BLE001  a broken library too: its user hears of it
            log.info("%s is not preloaded: %s", name, exc)
    for name in (*_FEAST_METRICS, "_MLFLOW_TELEMETRY_SESSION_ID"):  # the latter would be one for all children
        os.environ.pop(name, None)
    _drop_sweeping_filters(filters)
    if "ray" in sys.modules:
        raise RuntimeError("Ray was imported by a library of warm/libraries.py: take that one out.")


def _drop_sweeping_filters(before: Sequence[object]) -> None:
    """Take out the filters by which a library (Feast 0.67) has all warnings of a built-in kind shown."""
    builtin = [
        item
        for item in warnings.filters
        if item not in before and item[1] is None and item[3] is None and item[2].__module__ == "builtins"
    ]
    kept = [item for item in warnings.filters if item not in builtin]
    cast(list[object], warnings.filters)[:] = kept
