"""Spare MLflow's clients the import of Feast, which takes seconds, where it is installed and not used.

Feast 0.67 registers a plug-in that MLflow loads before its first request, from a module that needs nothing else of
Feast. Loading it by its full name imports the packages that it lies in, so all of Feast, whose run-time type checks
parse its source anew: about 4 s of CPU in each process that logs to MLflow.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

_PLUGIN = "feast.infra.data_sources.mlflow.auth"


def load_without_feast() -> None:
    """Load the plug-in's module by itself under its own name; Feast takes it from there if it is imported later.

    Does nothing where Feast is not installed, is imported already, or no longer has such a module.
    """
    package, _, below = _PLUGIN.partition(".")
    if package in sys.modules or _PLUGIN in sys.modules:
        return
    found = find_spec(package)
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder, *below.split(".")).with_suffix(".py")
        spec = spec_from_file_location(_PLUGIN, path) if path.is_file() else None
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[_PLUGIN] = module
            return
