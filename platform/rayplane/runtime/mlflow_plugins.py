"""Load Feast's MLflow plug-in without Feast, so that MLflow's clients do not import all of it.

Feast 0.67 registers a plug-in that MLflow loads before its first request, from a module that needs nothing else of
Feast. Importing that module by its full name imports its parent packages, hence all of Feast, whose run-time type
checks parse its source again: about 4 s of CPU in each process that logs to MLflow.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

_PLUGIN = "feast.infra.data_sources.mlflow.auth"


def load_without_feast() -> None:
    """Load the plug-in's module alone, under its full name, by which Feast gets it too if it is imported later.

    Does nothing if Feast is not installed, is imported already, or has no such module.
    """
    package, _, below = _PLUGIN.partition(".")
    if package in sys.modules or _PLUGIN in sys.modules:
        return
    feast = find_spec(package)
    for folder in (feast.submodule_search_locations or ()) if feast is not None else ():
        path = Path(folder, *below.split(".")).with_suffix(".py")
        spec = spec_from_file_location(_PLUGIN, path) if path.is_file() else None
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[_PLUGIN] = module
            return
