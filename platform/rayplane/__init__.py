"""Public names of rayplane, resolved lazily by string (PEP 562): importing this package imports nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Ray tests `"name" in dir(module)` for its address hooks, so every lazy name is in __dir__ as well.
_LAZY = {
    "Client": "rayplane.client.sdk:Client",
    "get_job_submission_client_cluster_info": "rayplane.client.ray_hooks:get_job_submission_client_cluster_info",
    "ClientBuilder": "rayplane.client.ray_hooks:ClientBuilder",
}

__all__ = ["Client", "ClientBuilder", "__version__", "get_job_submission_client_cluster_info"]


def __getattr__(name: str) -> Any:
    target = _LAZY.get(name)
    if target is None:
        raise AttributeError(f"module 'rayplane' has no attribute {name!r}")
    module, attribute = target.split(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
